"""One-shot pruning with calibration inputs: second-order, with inputs shared in a group, no training. Needs torch."""
from edgekit.errors import MissingToolError

try:
    import torch  # noqa: F401
except ImportError:
    raise MissingToolError("pruning with calibration inputs needs torch", fix="pip install 'edgekit-deploy[torch]'") from None

from edgekit.exporters.sparsify.reconstruction.calibration import Calibration, read_calibration
from edgekit.exporters.sparsify.reconstruction.net import reconstruct
from edgekit.exporters.sparsify.reconstruction.refusal import judged
from edgekit.exporters.sparsify.reconstruction.verdict import Verdict, judge

__all__ = ["Calibration", "Verdict", "judge", "judged", "read_calibration", "reconstruct"]
