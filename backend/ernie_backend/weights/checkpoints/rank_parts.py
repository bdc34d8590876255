"""Which part of each stored tensor of the Paddle layout a rank has, and the tensor that all parts make up.

``weights.sharding`` says which outputs and inputs of a weight a rank has; here they are found in its tensors.
What is not listed is whole on every rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_backend.model_config import ModelConfig
from ernie_backend.weights.checkpoints.prequantized import StoredWeight, cache_scale_specs
from ernie_backend.weights.precision import QUANTIZED, Precision
from ernie_backend.weights.recipes import Recipe, Recipes, TensorSpec
from ernie_backend.weights.roles import WeightKey
from ernie_backend.weights.sharding import Part, Shard, part_of

Tensor = NDArray[np.generic]
Place = tuple[slice | NDArray[np.intp], ...]
"""An index into a whole tensor that gives, or takes, a rank's part of it."""
_ALL = slice(None)


@dataclass(frozen=True)
class TensorParts:
    """How a tensor is shared out.

    Attributes:
        shape: of the whole tensor.
        places: each rank's part, in order.
    """

    shape: tuple[int, ...]
    places: tuple[Place, ...]

    def part_shape(self, rank: int) -> tuple[int, ...]:
        """Return the shape of the part of ``rank``."""
        return tuple(
            len(range(*index.indices(length))) if isinstance(index, slice) else len(index)
            for index, length in zip(self.places[rank], self.shape, strict=True)
        )

    def part(self, whole: Tensor, rank: int) -> Tensor:
        """Return the part of ``rank``."""
        return whole[self.places[rank]]

    def joined(self, parts: Mapping[int, Tensor]) -> Tensor:
        """Return the tensor that the parts make up, zeros where a rank is absent.

        Nothing is written there, so that memory is taken for what is present only.
        """
        whole = np.zeros(self.shape, next(iter(parts.values())).dtype)
        for rank, part in parts.items():
            whole[self.places[rank]] = part
        return whole


def tensor_parts(
    recipes: Recipes, stored: Mapping[WeightKey, StoredWeight], config: ModelConfig, ranks: int
) -> dict[str, TensorParts]:
    """Return how the tensors that are not whole on every rank are shared out, by name.

    Args:
        recipes: the weights of the Paddle layout.
        stored: those that are kept quantized.
        config: the model's sizes, which ``check_split`` has found to fit.
        ranks: among how many.
    """
    found = {}
    for key, recipe in recipes.items():
        if key.role.is_vector:
            continue
        outputs, inputs = recipe.shape
        parts = [part_of(key.role, (outputs, inputs), config, Shard(rank, ranks)) for rank in range(ranks)]
        for spec, outputs_axis, inputs_axis in _axes(recipe, stored.get(key)):
            places = tuple(
                _place(spec.shape, part, (outputs, inputs), (outputs_axis, inputs_axis)) for part in parts
            )
            found[spec.name] = TensorParts(spec.shape, places)
    for layer in range(config.num_layers):
        for spec in cache_scale_specs(config, layer):
            share = spec.shape[0] // ranks
            slices = tuple((slice(rank * share, (rank + 1) * share),) for rank in range(ranks))
            found[spec.name] = TensorParts(spec.shape, slices)
    return {name: parts for name, parts in found.items() if any(index != _ALL for index in _slices(parts))}


def needed_whole(
    recipes: Recipes,
    stored: Mapping[WeightKey, StoredWeight],
    precision: Precision,
    config: ModelConfig,
    shard: Shard,
) -> set[str]:
    """Return the tensors that a rank reads with the parts of all others.

    These are the weights that it quantizes and of which it has some columns: the scale of an output is that of
    all its inputs, so that N ranks compute with the numbers of one.
    """
    found: set[str] = set()
    for key, recipe in recipes.items():
        if key.role.is_vector or key in stored or precision.format_of(key.role) not in QUANTIZED:
            continue
        outputs, inputs = recipe.shape
        if part_of(key.role, (outputs, inputs), config, shard).shape[1] < inputs:
            found.update(tensor.name for tensor in recipe.tensors)
    return found


def _axes(recipe: Recipe, stored: StoredWeight | None) -> Iterator[tuple[TensorSpec, int, int | None]]:
    """Yield the tensors of a weight, with the axes of its outputs and of its inputs."""
    if stored is None:
        outputs_axis = 1 if recipe.is_transposed else 0
        yield recipe.tensors[0], outputs_axis, 1 - outputs_axis
    else:
        yield stored.codes, 1, 0
        yield stored.absmax, 0, None


def _place(
    shape: tuple[int, ...], part: Part, of_weight: tuple[int, int], axes: tuple[int, int | None]
) -> Place:
    place: list[slice | NDArray[np.intp]] = [_ALL] * len(shape)
    outputs, inputs = of_weight
    outputs_axis, inputs_axis = axes
    if part.shape[0] < outputs:
        place[outputs_axis] = np.concatenate([np.arange(rows.start, rows.stop) for rows in part.rows])
    if inputs_axis is not None and part.shape[1] < inputs:
        packed = inputs // shape[inputs_axis]  # inputs per index: 2 where a byte holds two codes
        place[inputs_axis] = slice(part.columns.start // packed, part.columns.stop // packed)
    return tuple(place)


def _slices(parts: TensorParts) -> Iterator[slice | None]:
    for place in parts.places:
        for index in place:
            yield index if isinstance(index, slice) else None
