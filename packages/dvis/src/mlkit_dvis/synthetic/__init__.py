"""Generated videos: an aquarium with exact masks, and motions that only their order tells apart."""

from mlkit_dvis.synthetic.dataset import write_videos
from mlkit_dvis.synthetic.motion import write_motion_set
from mlkit_dvis.synthetic.scene import Difficulty

__all__ = ["Difficulty", "write_motion_set", "write_videos"]
