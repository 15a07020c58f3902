"""Generated videos: an aquarium with exact masks, and motions that only their order tells apart."""

from mlkit_dvis.synthetic.dataset import write_videos
from mlkit_dvis.synthetic.motion import write_motion_set

__all__ = ["write_motion_set", "write_videos"]
