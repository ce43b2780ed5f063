"""Where the few actors of a run's own are placed: on one named node, or nowhere.

Limits: knows no Ray, only its words. An actor whose node is gone waits for ever; these end with it.
"""


def on_node(node_id: str) -> dict[str, dict[str, str]]:
    """The actor options that bind an actor to the node with this id (hexadecimal).

    A run's dispatchers and its board belong beside the driver, whose death ends the run anyway: no
    spot node then takes them along. By label and not by a soft affinity: Ray lets any node decide
    where an actor goes, and one that has just joined has no driver's node in its view yet, so it
    kept the dispatcher (2 runs of 3, where nodes had joined in the second before).
    """
    return {"label_selector": {"ray.io/node-id": node_id}}
