# The operators, registered once; the devices there are; what tests share.
import os
import random

import pytest
import torch

import kvops
import kvops.torch

VERSION = os.environ.get("KVOPS_TEST_SCHEMA", "2026-09")
REGISTERED = kvops.torch.register(schema=VERSION)
CUDA = torch.cuda.is_available() and kvops.device_count("cuda") > 0
DEVICES = ["cpu", "cuda"] if CUDA else ["cpu"]
_NAMES = {"get_scheduler_metadata": "cpu_attn_get_scheduler_metadata",
          "create_onednn_mm_handler": "create_onednn_mm",
          "create_onednn_scaled_mm_handler": "create_onednn_scaled_mm"}


def kvops_name(name):
    """What the library calls one of vLLM's operators."""
    return _NAMES.get(name, name)


def runs_on(name, device):
    return device in kvops.ops[kvops_name(name)].backends


@pytest.fixture(params=DEVICES)
def device(request):
    """Each device; a test that meets an operator that is not there yet is skipped by name."""
    return request.param


@pytest.fixture(autouse=True)
def seeds():
    random.seed(3)
    torch.manual_seed(3)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    """An operator that has no kernel on the GPU skips its test, saying so."""
    outcome = yield
    error = outcome.excinfo and outcome.excinfo[1]
    if isinstance(error, kvops.Error) and "does not exist for cuda" in str(error):
        outcome.force_exception(pytest.skip.Exception(str(error)))
