"""Which sites can take a version, and why not: asked before anything is planned."""

from collections import Counter
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.api.selectors import HELP
from controlplane.catalog.queries import find_version
from controlplane.domain.fit_facts import Answer, Verdict, matching
from controlplane.rollouts.site_fits import SiteFit, site_fits

USUAL, MOST = 100, 1000


class FitQuery(serializers.Serializer[Any]):
    selector = serializers.CharField(max_length=1000, required=False, default="", allow_blank=True)
    verdict = serializers.ChoiceField(
        [answer.value for answer in Answer], required=False, default=None, allow_null=True
    )
    limit = serializers.IntegerField(min_value=0, max_value=MOST, required=False, default=USUAL)


class CheckOut(serializers.Serializer[Any]):
    """One question, with the numbers; unknown refuses nothing."""

    name = serializers.CharField()
    verdict = serializers.ChoiceField([answer.value for answer in Answer])
    have = serializers.CharField()
    need = serializers.CharField()
    sentence = serializers.CharField()


class RejectedOut(serializers.Serializer[Any]):
    variant = serializers.CharField()
    checks = CheckOut(many=True, help_text="those that refuse it")


class SiteFitOut(serializers.Serializer[Any]):
    site = serializers.CharField()
    tier = serializers.CharField()
    region = serializers.CharField()
    hardware = serializers.CharField()
    verdict = serializers.ChoiceField([answer.value for answer in Answer])
    variant = serializers.CharField(allow_null=True, help_text="null: no build fits")
    why = serializers.CharField()
    only_by_replace = serializers.BooleanField(
        help_text="there is no room beside the version before; it needs switch replace or auto"
    )
    checks = CheckOut(many=True)
    rejected = RejectedOut(many=True, help_text="builds of a higher priority that do not fit")


class FitSummaryOut(serializers.Serializer[Any]):
    ok = serializers.IntegerField()
    unknown = serializers.IntegerField(help_text="nothing is known to speak against it")
    no = serializers.IntegerField()
    only_by_replace = serializers.IntegerField()
    variants = serializers.DictField(
        child=serializers.IntegerField(), help_text="how many sites would get which build"
    )
    refusals = serializers.DictField(
        child=serializers.IntegerField(), help_text="how many sites which question refuses"
    )


class FitOut(serializers.Serializer[Any]):
    model = serializers.CharField()
    version = serializers.CharField()
    sites = serializers.IntegerField(help_text="that the selector chooses")
    summary = FitSummaryOut(help_text="of all of these")
    shown = serializers.IntegerField(help_text="how many stand in `results`; the limit bounds it")
    results = SiteFitOut(many=True, help_text="by name, those with the verdict asked for")


class VersionFit(APIView):
    @extend_schema(
        parameters=[
            OpenApiParameter("selector", str, description=f"also name, tier and hardware. {HELP}"),
            OpenApiParameter("verdict", str, enum=[answer.value for answer in Answer]),
            OpenApiParameter("limit", int, description=f"0 to {MOST}; {USUAL} when left out"),
        ],
        responses=FitOut,
    )
    def get(self, request: Request, name: str, number: int) -> Response:
        """Of every site in service: whether the version can live there, in which build, and with
        which numbers. From declared and learned figures; the site's agent looks again."""
        query = FitQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        asked = query.validated_data
        meant = matching(asked["selector"])
        version = find_version(name, number)
        found = site_fits(version, meant)
        wanted = asked["verdict"]
        listed = [fit for fit in found if wanted in (None, fit.verdict.value)][: asked["limit"]]
        document = {
            "model": version.model.name,
            "version": str(version.number),
            "sites": len(found),
            "summary": _summary(found),
            "shown": len(listed),
            "results": [_site(fit) for fit in listed],
        }
        return Response(document)


def _summary(found: list[SiteFit]) -> dict[str, object]:
    verdicts = Counter(fit.verdict for fit in found)
    refusals = Counter(
        check.name
        for fit in found
        if fit.choice.variant is None
        for check in fit.choice.judged.checks
        if check.verdict is Answer.NO
    )
    return {
        **{answer.value: verdicts[answer] for answer in Answer},
        "only_by_replace": sum(fit.choice.judged.only_by_replace for fit in found),
        "variants": dict(Counter(fit.choice.variant for fit in found if fit.choice.variant)),
        "refusals": dict(refusals),
    }


def _site(fit: SiteFit) -> dict[str, object]:
    choice, traits = fit.choice, fit.traits
    return {
        "site": traits.name,
        "tier": traits.tier,
        "region": traits.region,
        "hardware": traits.hardware,
        "verdict": fit.verdict.value,
        "variant": choice.variant,
        "why": choice.why,
        "only_by_replace": choice.judged.only_by_replace,
        "checks": [check.document() for check in choice.judged.checks],
        "rejected": [
            {"variant": name, "checks": _refusing(judged)} for name, judged in choice.rejected
        ],
    }


def _refusing(judged: Verdict) -> list[dict[str, str]]:
    return [check.document() for check in judged.checks if check.verdict is Answer.NO]
