"""Options of ``pytest bench --benchmark-only``: the shape and the sizes."""


def pytest_addoption(parser):
    group = parser.getgroup("fastunlearn")
    group.addoption("--shape", default="llama-5m")
    group.addoption("--tokens", type=int, default=128)
    group.addoption("--samples", type=int, default=16)
    group.addoption("--what", default="all")
