"""Features and their finalised levels: how a cluster whose nodes are upgraded one by one gets to what is new. Pure.

A node registers with the levels it supports (KIP-584). A new cluster begins at this release's highest level, an older
one stays where it is until somebody finalises the next level, which takes that every registered node supports it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from logeion.wire.errors import (
    FeatureUpdateFailedError,
    InvalidRequestError,
    InvalidUpdateVersionError,
    UnsupportedVersionError,
)

from ..messages import FeatureChange, UpdateFeatures
from ..metadata import METADATA_VERSION, FeatureLevelSet, MetadataImage, MetadataRecord

# Levels of metadata.version: one node alone; several nodes that replicate.
ALONE, REPLICATED = 1, 2

# What this release supports, each from the lowest to the highest level.
SUPPORTED: dict[str, list[int]] = {METADATA_VERSION: [ALONE, REPLICATED]}

UPGRADE, SAFE_DOWNGRADE, UNSAFE_DOWNGRADE = 1, 2, 3


def supports(features: Mapping[str, Sequence[int]], name: str, level: int) -> bool:
    """Whether a node of these features can live with this level of one; level 0 is without it."""
    if not level:
        return True
    lowest, highest = features.get(name, (0, 0))
    return lowest <= level <= highest


def check_registration(image: MetadataImage, node: int, features: Mapping[str, Sequence[int]]) -> None:
    """Raises ``UnsupportedVersionError`` if the node is too old or too new for what is finalised."""
    for name, level in image.features.items():
        if not supports(features, name, level):
            known = features.get(name, (0, 0))
            raise UnsupportedVersionError(
                f"node {node} supports {name} from {known[0]} to {known[1]}, the cluster has finalised {level}"
            )


def update(image: MetadataImage, request: UpdateFeatures) -> list[MetadataRecord]:
    """All of these changes; raises what Kafka answers if one of them cannot be."""
    names = [change.name for change in request.changes]
    if len(set(names)) != len(names):
        raise InvalidRequestError("a feature is listed more than once")
    records: list[MetadataRecord] = []
    for change in request.changes:
        _check(image, change)
        if change.level != image.features.get(change.name, 0):
            records.append(FeatureLevelSet(name=change.name, level=change.level))
    return records


def _check(image: MetadataImage, change: FeatureChange) -> None:
    name, level, present = change.name, change.level, image.features.get(change.name, 0)
    if change.upgrade not in (UPGRADE, SAFE_DOWNGRADE, UNSAFE_DOWNGRADE):
        raise InvalidRequestError(f"{name}: {change.upgrade} is no type of an upgrade")
    if name not in SUPPORTED:
        raise InvalidUpdateVersionError(f"there is no feature {name!r}; there are {', '.join(SUPPORTED)}")
    lowest, highest = SUPPORTED[name]
    if not (lowest <= level <= highest) and not (level == 0 and name != METADATA_VERSION):
        raise InvalidUpdateVersionError(f"{name}: level {level} is not between {lowest} and {highest}")
    if level < present and change.upgrade == UPGRADE:
        raise InvalidUpdateVersionError(f"{name} is at {present}: going down to {level} must be asked for as such")
    if level > present and change.upgrade != UPGRADE:
        raise InvalidUpdateVersionError(f"{name} is at {present}: level {level} is no downgrade")
    if name == METADATA_VERSION and level < present and change.upgrade != UNSAFE_DOWNGRADE:
        raise InvalidUpdateVersionError(
            f"{name} is at {present}: what {level} does not know would be lost, so only an unsafe downgrade can do it"
        )
    for node, broker in image.brokers.items():
        if not supports(broker.features, name, level):
            raise FeatureUpdateFailedError(f"node {node} does not support level {level} of {name}")
