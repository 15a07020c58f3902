"""Coronary phantom: 3-D trees seen by a C-arm, as cines, masks and angles, and the proof set.

Everything is made from a seed; no file is needed. `write_phantom` and `write_proof` are the
usual ways in.
"""

from __future__ import annotations

from mlkit_angioseg.phantom.dataset import write_phantom
from mlkit_angioseg.phantom.geometry import BeamAxes, CArm, Projection, View, beam_axes
from mlkit_angioseg.phantom.growth import daughter_diameter, grow_tree
from mlkit_angioseg.phantom.proof import (
    ProofImage,
    family_of_view,
    no_view_bound,
    proof_image,
    view_of_family,
    write_proof,
)
from mlkit_angioseg.phantom.render import (
    Acquisition,
    Cine,
    Frame,
    Imaging,
    render_cine,
    render_frame,
)
from mlkit_angioseg.phantom.semi_synthetic import local_width, write_semi_synthetic
from mlkit_angioseg.phantom.tree import Branch, CoronaryTree, Stenosis, narrow
from mlkit_angioseg.phantom.views import clinical_views

__all__ = [
    "Acquisition",
    "BeamAxes",
    "Branch",
    "CArm",
    "Cine",
    "CoronaryTree",
    "Frame",
    "Imaging",
    "Projection",
    "ProofImage",
    "Stenosis",
    "View",
    "beam_axes",
    "clinical_views",
    "daughter_diameter",
    "family_of_view",
    "grow_tree",
    "local_width",
    "narrow",
    "no_view_bound",
    "proof_image",
    "render_cine",
    "render_frame",
    "view_of_family",
    "write_phantom",
    "write_proof",
    "write_semi_synthetic",
]
