"""Waiting for servers, by Erlang. It must not know what the servers are."""


def erlang_c(servers: int, offered: float) -> float:
    """The chance that a request must wait in M/M/c (A. K. Erlang, 1917; worked out from his loss
    formula's recursion, as in R. B. Cooper, Introduction to Queueing Theory, 1981). `offered` is
    the arrival rate times the service time; from `servers` on everybody waits."""
    if offered >= servers:
        return 1.0
    lost = 1.0
    for count in range(1, servers + 1):
        lost = offered * lost / (count + offered * lost)
    return lost / (1 - offered / servers * (1 - lost))


def waiting_ms(servers: int, offered: float, service_ms: float) -> float:
    """The mean wait in M/M/c; infinite where more is offered than can be served."""
    if offered >= servers:
        return float("inf")
    return erlang_c(servers, offered) * service_ms / (servers - offered)
