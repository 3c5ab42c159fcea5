"""The model of a run: a base, the adapter on it, and -log p of the tokens that are learned.

Packed samples never see each other, whichever attention computes them, and where a family cannot part them each is alone; the output matrix is applied to learned tokens only.
"""

# torch, transformers and peft type their functions only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from fust.core.errors import InvalidInput
from fust.core.files import full_disk_is_clear
from fust.tune.attention import Lengths, register_parted_attention
from fust.tune.base import PROVEN
from fust.tune.batches import IGNORED, Batch
from fust.tune.checkpoints import Tensors, disk_errors
from fust.tune.kernels import token_losses
from fust.tune.loading import load_model
from fust.tune.products import Matrices
from fust.tune.quick import quicken, quicken_adapters
from fust.tune.recipe import Recipe

_HEAD_VALUES = 2**26
"""Logits that are made at once; more are made in parts, each again for the backward pass."""
_FROZEN_FP32_PARAMETERS = 300_000_000
_ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


class Tuned:
    """A base model and what of it is trained."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        from transformers import AutoConfig

        torch.manual_seed(recipe.seed)
        self._bf16 = recipe.precision == "bf16"
        self._compiled = recipe.compile
        config = AutoConfig.from_pretrained(folder)
        self._stored = cast("torch.dtype", config.dtype or torch.float32)
        # Families of which the tests know that attention hands on where samples end; the others part by positions, or not.
        self._parts = config.model_type in PROVEN
        self._base = recipe.base
        self._is_adapter = recipe.is_adapter
        attention = register_parted_attention(compiled=recipe.compile) if self._parts else None  # its own
        self.model: Any = load_model(folder, recipe.base, dtype=torch.float32, attn_implementation=attention)
        self._by_positions = not self._parts and _parts_by_positions(self.model.base_model)
        if self._is_adapter:
            self._add_adapter(recipe)
        if recipe.checkpointing:
            if not self.model.supports_gradient_checkpointing:
                raise InvalidInput(
                    "{base} is of the family {family}, whose activations cannot be computed twice.",
                    hint="Leave checkpointing out.",
                    base=recipe.base,
                    family=config.model_type,
                )
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model.train()
        causal = self.model.get_base_model() if self._is_adapter else self.model
        self._backbone: Any = causal.base_model
        if self._compiled:
            for layer in self._backbone.layers:
                layer.compile(dynamic=False)
        self._head: Any = causal.get_output_embeddings()
        self._soft_cap: float | None = getattr(causal.config, "final_logit_softcapping", None)
        self._scale = 1.0 if self._parts else self._scale_of_logits(causal, config.model_type)
        self._plain_head = (
            self._scale == 1.0
            and type(self._head) is torch.nn.Linear
            and len(list(self._head.parameters())) == 1
            and not self._soft_cap
        )
        if self._parts and not self._compiled:
            self._matrix = quicken(causal)
        else:
            self._matrix = Matrices([self._head.weight])
            if self._is_adapter and not self._compiled:
                quicken_adapters(causal)
        self.trained: dict[str, torch.nn.Parameter] = {
            name: parameter
            for name, parameter in cast(
                "Iterator[tuple[str, torch.nn.Parameter]]", self.model.named_parameters()
            )
            if parameter.requires_grad
        }

    def _add_adapter(self, recipe: Recipe) -> None:
        from peft import LoraConfig, get_peft_model

        # What is frozen and large is kept as the matrix products take it; small models are exact in fp32.
        if self._bf16 and self.model.num_parameters() > _FROZEN_FP32_PARAMETERS:
            self.model.to(torch.bfloat16)
        wanted = LoraConfig(
            r=recipe.lora_rank,
            lora_alpha=recipe.lora_alpha,
            # Of models with experts the attention: adapters of experts are known to peft alone.
            target_modules=_ATTENTION if _has_experts(self.model) else "all-linear",
            task_type="CAUSAL_LM",
            revision=recipe.base_revision,
        )
        torch.manual_seed(recipe.seed)
        self.model = get_peft_model(self.model, wanted)
        if self._bf16:
            self._freeze_in_bf16()

    def _freeze_in_bf16(self) -> None:
        """Keeps frozen matrices as matrix products take them, who else cast them at each use: the values are the same."""
        head = self.model.get_output_embeddings()
        for module in self.model.modules():
            if (
                type(module) is torch.nn.Linear
                and module is not head
                and not any(p.requires_grad for p in module.parameters())
            ):
                module.to(torch.bfloat16)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Returns the sum of -log p over the learned tokens."""
        return self.losses(batch)[0].sum()

    def losses(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns -log p of each learned token, and which of the batch's places it has when they are counted through."""
        with self.precision():
            hidden = self._hidden(batch)
            wanted = batch.targets.flatten()
            places = torch.nonzero(wanted != IGNORED).squeeze(1)
            hidden, wanted = hidden.flatten(0, 1).index_select(0, places), wanted[places]
            at_once = max(1, _HEAD_VALUES // self._head.weight.shape[0])
            keeps_little = self._plain_head and not self._matrix.learns
            if keeps_little or len(wanted) <= at_once:
                return self._head_loss(hidden, wanted), places
            parts = zip(hidden.split(at_once), wanted.split(at_once), strict=True)
            found = [
                cast("torch.Tensor", checkpoint(self._head_loss, h, w, use_reentrant=False)) for h, w in parts
            ]
            return torch.cat(found), places

    @contextlib.contextmanager
    def precision(self) -> Generator[None]:
        """Has matrix products in the recipe's precision; only what learns is compiled, as its passes have one shape."""
        eager = self._compiled and not self.model.training
        with (
            torch.compiler.set_stance("force_eager") if eager else contextlib.nullcontext(),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._bf16),
        ):
            yield

    def _hidden(self, batch: Batch) -> torch.Tensor:
        """Returns the last hidden states; samples of a row do not see each other."""
        if self._parts:
            row = (1, -1)
            return self._backbone(
                input_ids=batch.ids.view(row),
                position_ids=batch.positions.view(row),
                use_cache=False,
                sample_lengths=Lengths(batch.lengths),
            ).last_hidden_state
        if self._by_positions:
            return _by_positions(self._backbone, batch.ids, batch.positions)
        each = batch.ids.view(1, -1).split(list(batch.lengths), 1)
        found = [self._backbone(input_ids=ids, use_cache=False).last_hidden_state for ids in each]
        return torch.cat(found, 1).view(*batch.ids.shape, -1)

    def _head_loss(self, hidden: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        if self._plain_head:
            return token_losses(hidden, self._matrix, wanted)
        return F.cross_entropy(self._logits(hidden) * self._scale, wanted, reduction="none")

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self._head(hidden).float()
        return torch.tanh(logits / self._soft_cap) * self._soft_cap if self._soft_cap else logits

    @torch.no_grad()
    def _scale_of_logits(self, causal: Any, family: str) -> float:
        """Returns what a family multiplies its logits by, as Cohere's and Granite's do.

        Raises:
            InvalidInput: it does something else with them; its loss would not be the model's.

        """
        causal.eval()
        ids = torch.arange(8)[None]
        theirs = causal(input_ids=ids, use_cache=False).logits.float()
        ours = self._logits(self._backbone(input_ids=ids, use_cache=False).last_hidden_state)
        causal.train()
        scale = float((ours * theirs).sum() / (ours * ours).sum())
        scale = 1.0 if abs(scale - 1) < 1e-5 else scale
        # Numbers that are none are found, and explained, when the base is first evaluated.
        if (theirs - ours * scale).abs().max() > 0.01 * theirs.abs().max():  # a large base is in bf16
            raise InvalidInput(
                "{base} is of the family {family}, whose logits are not its output matrix's products: its loss would be another one.",
                base=self._base,
                family=family,
            )
        return scale

    def weights(self) -> Tensors:
        """Returns what is trained, by name."""
        return {name: parameter.detach() for name, parameter in self.trained.items()}

    def write(self, folder: Path) -> None:
        """Writes what the hub gets: an adapter as PEFT has it, or whole weights in the base's own dtype."""
        more = {}
        if self._is_adapter:
            # peft names the folder that the base was read from, which nobody else has.
            self.model.peft_config["default"].base_model_name_or_path = self._base
            # No adapter of ours has embeddings; left to itself, peft asks the public hub how many the base has.
            more = {"save_embedding_layers": False}
        else:
            self.model.to(self._stored)
        with full_disk_is_clear(folder), disk_errors():
            self.model.save_pretrained(folder, **more)

    def load(self, weights: Tensors) -> None:
        """Takes trained weights from a checkpoint."""
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(weights[name])

    @contextlib.contextmanager
    def as_base(self) -> Generator[None]:
        """Has an adapted model be its base, bit by bit: an adapter's second matrices are zeros until they have learned."""
        seconds = [p.detach() for name, p in self.trained.items() if ".lora_B." in name]
        learned = [it.clone() for it in seconds]
        for it in seconds:
            it.zero_()
        try:
            yield
        finally:
            for it, values in zip(seconds, learned, strict=True):
                it.copy_(values)


def _has_experts(model: Any) -> bool:
    return bool(
        getattr(model.config, "num_local_experts", None) or getattr(model.config, "num_experts", None)
    )


def _by_positions(backbone: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Returns hidden states without a cache or a mask: only then does transformers part packed samples by positions."""
    return backbone(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state


@torch.no_grad()
def _parts_by_positions(backbone: Any) -> bool:
    """Returns whether a sample is the same behind another one and alone: a family whose words pass on a state is not."""
    if "position_ids" not in inspect.signature(backbone.forward).parameters:
        return False
    backbone.eval()
    first, second = torch.arange(8)[None], torch.arange(7, -1, -1)[None]
    places = torch.arange(8)[None]
    packed = _by_positions(backbone, torch.cat([first, second], 1), torch.cat([places, places], 1))[:, 8:]
    alone = _by_positions(backbone, second, places)
    return bool((packed - alone).abs().max() <= 1e-4 * alone.abs().max())
