"""What the tests of pruning share."""
import pytest


@pytest.fixture
def seeded():
    """The same random numbers and sums in torch whenever and wherever a test runs."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
