"""Where a pair comes from: `pairloom show`, and `pairloom replay RUN PAIR_ID`."""

from pipelines.lineage.again import replay_pair
from pipelines.lineage.chain import Chain, find_chain, is_pair_id
from pipelines.lineage.compare import PairAgain
from pipelines.lineage.page import again_to_dict, chain_to_dict, describe_again, describe_chain

__all__ = [
    "Chain",
    "PairAgain",
    "again_to_dict",
    "chain_to_dict",
    "describe_again",
    "describe_chain",
    "find_chain",
    "is_pair_id",
    "replay_pair",
]
