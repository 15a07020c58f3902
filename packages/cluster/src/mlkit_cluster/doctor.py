"""What `mlkit doctor` asks of cluster."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mlkit_core import CheckResult


def check_kernel() -> CheckResult:
    """Compare the kernel with the installed ultralytics on a random detector and noise."""
    import numpy as np
    import torch

    from mlkit_cluster.distances.rows import by_criterion, grid_of
    from mlkit_cluster.kernel import Targets, TargetTable, pair_losses, prepare_row
    from mlkit_cluster.yolo.adapter import load_detector, write_random_detector

    with tempfile.TemporaryDirectory() as folder:
        path = write_random_detector(Path(folder) / "doctor.pt", "yolov8n.yaml", 3)
        detector = load_detector(path, 64, "cpu")
    generator = torch.Generator().manual_seed(0)
    raw = detector(torch.rand(1, 3, 64, 64, generator=generator))
    boxes = np.array([[0.4, 0.5, 0.5, 0.4], [0.6, 0.4, 0.3, 0.6]], np.float32)
    targets = Targets(boxes, np.array([0, 2], np.int32), np.array([0, 1, 2], np.int64))
    ours = pair_losses(prepare_row(raw, grid_of(detector)), TargetTable(targets, grid_of(detector)))
    theirs = by_criterion(detector, raw, targets, None)
    errors = [
        np.abs(getattr(ours, name) - theirs[name]) / np.maximum(1, np.abs(theirs[name]))
        for name in ("box", "cls", "dfl")
    ]
    worst = float(np.max(errors))
    return CheckResult(
        ok=worst <= 1e-5,
        detail=f"kernel and ultralytics differ by {worst:.1e} relative on 2 random pairs",
        hint="`mlkit cluster distances --kernel criterion` is slow, and right",
    )
