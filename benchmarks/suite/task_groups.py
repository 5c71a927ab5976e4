"""What kind of question each task asks, and which tasks show the same images.

The three groups are those of VTAB (Zhai et al. 2019, arXiv 1910.04867): everyday things
(natural), images of special equipment or expertise (specialised), and the structure of a scene
(structured). Silhouettes, emoji and road signs are artwork: they are placed by their question,
"which kind of thing is this?", as VTAB places SVHN.
"""

from typing import Literal

Group = Literal["natural", "specialised", "structured", "other"]

_BY_GROUP: dict[Group, tuple[str, ...]] = {
    "natural": (
        "animal-silhouettes",
        "digits",
        "emoji-group",
        "fashion-mnist",
        "mnist",
        "road-sign-category",
        "texture",
        # VTAB-1k
        "caltech101",
        "cifar",
        "dtd",
        "oxford_flowers102",
        "oxford_iiit_pet",
        "sun397",
        "svhn",
    ),
    "specialised": (
        "climate-zone",
        "solar-cell-defect",
        "solar-cell-silicon",
        "textile-defect",
        # VTAB-1k
        "diabetic_retinopathy",
        "eurosat",
        "patch_camelyon",
        "resisc45",
    ),
    "structured": (
        "count",
        "depth-bin",
        "gap-direction",
        "pair-bearing",
        "pair-distance",
        "polygon-corners",
        "sprite-location",
        "sprite-orientation",
        "sprite-row",
        "sprite-scale",
        "sprite-shape",
        # VTAB-1k
        "clevr_count",
        "clevr_dist",
        "dmlab",
        "dsprites_loc",
        "dsprites_ori",
        "kitti",
        "smallnorb_azi",
        "smallnorb_ele",
    ),
}
GROUPS: dict[str, Group] = {task: group for group, tasks in _BY_GROUP.items() for task in tasks}

RELATED: tuple[frozenset[str], ...] = (
    frozenset({"solar-cell-defect", "solar-cell-silicon"}),
    frozenset({"clevr_count", "clevr_dist"}),
    frozenset({"dsprites_loc", "dsprites_ori"}),
    frozenset({"smallnorb_azi", "smallnorb_ele"}),
)
"""Tasks that ask different questions about the same images.

A prompt of one has seen the other's images, so it is no source for it. Not among them: `mnist` and
`digits` (different writers and scans), `depth-bin` and `texture` (different photographs of one
package), and the tasks in `benchmarks.tasks.catalogue.DRAWN` (every image is drawn for one task).
"""

SEEN: frozenset[str] = frozenset(
    {
        "animal-silhouettes",
        "climate-zone",
        "count",
        "depth-bin",
        "emoji-group",
        "fashion-mnist",
        "road-sign-category",
        "solar-cell-defect",
        "solar-cell-silicon",
        "sprite-location",
        "sprite-orientation",
        "textile-defect",
    }
)
"""Tasks whose test accuracies had been looked at when the rule of `ensemble.methods.choice` was
first settled. What it gains on them flatters it; the others decide.

When no prompt was let in among those that compete, the results of all tasks with the seeds 0 to 2
had been looked at: that change was judged by other seeds."""


def group_of(task: str) -> Group:
    """Return a task's group, "other" for a task that this suite does not know."""
    return GROUPS.get(task, "other")


def share_images(one: str, other: str) -> bool:
    """Whether two tasks are the same or show the same images."""
    return one == other or any(one in family and other in family for family in RELATED)
