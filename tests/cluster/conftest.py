"""Clusters that end with their case. Their data and logs are kept where it failed."""

import shutil

import pytest

from cluster.nodes import Cluster

FAILED = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest.fixture
def make_cluster(request, tmp_path):
    """Makes clusters of as many brokers as one says, with arguments that all of them get."""
    made = []

    def make(size, *arguments, **options):
        made.append(Cluster(tmp_path / f"cluster-{len(made)}", *arguments, **options))
        made[-1].directory.mkdir()
        return made[-1].form(size)

    yield make
    for cluster in made:
        cluster.end()
        if not request.node.stash.get(FAILED, False):
            shutil.rmtree(cluster.directory, ignore_errors=True)


@pytest.fixture
def three(make_cluster):
    """A cluster of three brokers, all well."""
    return make_cluster(3)
