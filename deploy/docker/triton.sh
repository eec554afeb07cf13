#!/bin/sh
# Starts NVIDIA's Triton with the project's one list of options; waypost_agent/triton_flags.py says
# why each is there, and tests/deploy compares the two. Reads this boot's secret; writes nothing.
set -eu
secret=$(cat /run/waypost/triton-secret)
fence="model-repository,model-config,shared-memory,statistics,trace,logging:x-waypost-triton=$secret"

set -- \
  --model-repository=/models \
  --model-control-mode=explicit \
  --exit-on-error=false \
  --strict-readiness=false \
  --disable-auto-complete-config \
  --exit-timeout-secs=5 \
  --allow-http=true \
  --http-address=127.0.0.1 \
  --http-port=8000 \
  --allow-grpc=true \
  --grpc-address=127.0.0.1 \
  --grpc-port=8001 \
  --allow-metrics=true \
  --metrics-address=127.0.0.1 \
  --metrics-port=8002 \
  --metrics-config=histogram_latencies=true \
  "--http-restricted-api=$fence" \
  "--grpc-restricted-protocol=$fence" \
  --allow-client-shm=false \
  --allow-sagemaker=false \
  --allow-vertex-ai=false \
  --model-load-gpu-limit=0:0.9

# Last good: the agent writes a model's config.pbtxt only for a version that it has proved, so what
# it names may be served at once, also while the agent and the centre are away. Candidates may not.
for config in /models/*/config.pbtxt; do
  [ -f "$config" ] || continue
  model=$(basename "$(dirname "$config")")
  case "$model" in *--candidate) continue ;; esac
  set -- "$@" "--load-model=$model"
done
exec tritonserver "$@"
