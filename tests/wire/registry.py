"""The list of scenarios, filled by decorating them."""

from wire.compare import versions_of

SCENARIOS = []


def scenario(api, since=0):
    """Registers a scenario to be run in every version of an API, from `since` on."""

    def register(function):
        SCENARIOS.extend((function, api, version) for version in versions_of(api) if version >= since)
        return function

    return register
