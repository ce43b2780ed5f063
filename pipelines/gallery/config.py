"""How the gallery of a run is made: size of the thumbnails, what counts as lost, price of a GPU.

Limits: with other values than those that a site was made with, it is made anew.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GalleryConfig:
    """Keys of `pairloom gallery`; the dataset is never touched."""

    thumbnail_px: int = 192  # the longer side at most; smaller pictures stay as they are
    # A chain whose last description still says at least this share of the seed's words has kept
    # its meaning; below `lost_below` it has lost it; between the two it has drifted.
    kept_from: float = 0.85
    lost_below: float = 0.5
    # In the embedded world: chains of which the oracle is asked what is true, the first ones, some
    # 4 ms a pair; 0: of none
    num_truth_chains: int = 256
    gpu_hour_price: float | None = None  # null: that of the run's own `plan.gpu_hour_price`
    follow_s: float = 3.0  # with --follow: between two looks at the ledger

    def __post_init__(self) -> None:
        if not 16 <= self.thumbnail_px <= 512:
            raise ValueError(
                f"field 'thumbnail_px' is {self.thumbnail_px}: must be from 16 to 512 pixels"
            )
        if not 0 <= self.lost_below <= self.kept_from <= 1:
            raise ValueError(
                f"field 'lost_below' is {self.lost_below}, 'kept_from' {self.kept_from}: both are "
                "shares from 0 to 1, and the first is not above the second"
            )
        if self.num_truth_chains < 0:
            raise ValueError(
                f"field 'num_truth_chains' is {self.num_truth_chains}: must be 0 or more"
            )
        price = self.gpu_hour_price
        if price is not None and not 0 <= price < math.inf:
            raise ValueError(f"field 'gpu_hour_price' is {price}: must be 0 or more, or null")
        if not 0.1 <= self.follow_s <= 3600:
            raise ValueError(f"field 'follow_s' is {self.follow_s}: must be from 0.1 to 3600 s")
