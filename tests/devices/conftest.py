"""A pretend accelerator in place of a GPU of today, and of one of Apple's."""

from collections.abc import Iterator

import pytest
from tests.devices import pretend
from tests.devices.pretend import Machine, without_float64
from torch.nn.attention import SDPBackend, sdpa_kernel

from ditto import runner, tables


@pytest.fixture(params=["float64", "no float64"])
def machine(request: pytest.FixtureRequest, together: None) -> Iterator[None]:
    """The device, as a GPU of today and as one of Apple's."""
    pretend.register()
    # PyTorch chooses its attention by the device: for one that it does not know, plain products
    alike = sdpa_kernel(SDPBackend.MATH)
    with pytest.MonkeyPatch.context() as patch, Machine(), alike:
        # where a CPU makes the items of a batch one by one, sums are rounded in another order
        patch.setattr(runner, "one_by_one", lambda device, count: False)
        if request.param == "float64":
            yield
            return
        patch.setattr(tables, "WITHOUT_FLOAT64", {"mps", pretend.NAME})
        with without_float64():
            yield
