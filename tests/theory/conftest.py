"""What solves the semidefinite programs of `theory.routes.worstcase` comes first, and together."""


def pytest_collection_modifyitems(items):
    """Of a suite that is split over processes it then runs in one of them, which keeps what it has solved."""
    items.sort(key=lambda item: not ("worst_case" in item.nodeid or "whole_run" in getattr(item, "fixturenames", ())))
