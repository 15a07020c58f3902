"""The refiner network: attention over time, over objects, and to the frames' queries.

Source: Zhang et al., "DVIS: Decoupled Video Instance Segmentation Framework", ICCV 2023, section
3.4, and Zhou et al., "DVIS-DAQ", ECCV 2024.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from mlkit_core.errors import BuildError
from mlkit_dvis.blocks import MLP, CrossAttentionLayer, FFNLayer, SelfAttentionLayer

if TYPE_CHECKING:
    from collections.abc import Callable

TimeEncoding = Literal["none", "sine"]
_FFN_ROWS = 4096  # rows of the feed-forward layer at once where no gradient is kept


@dataclass(frozen=True)
class RefinerOutput:
    """What the refiner says of B clips of T frames and N rows.

    Args:
        pred_logits: `[B, T, N, K + 1]`, of the whole clip, equal in all its frames.
        pred_masks: `[B, N, T, h, w]`, logits.
        pred_embds: `[B, C, T, N]`, of the last layer before the last norm.
        frame_weights: `[T, N]` where B is 1, else `[B, T, N]`: how much each frame counted for the
            class; they sum to 1 over the frames.
        aux: Logits and masks of each earlier layer, in training only.
    """

    pred_logits: Tensor
    pred_masks: Tensor
    pred_embds: Tensor
    frame_weights: Tensor
    aux: tuple[tuple[Tensor, Tensor], ...] = ()


class TemporalRefiner(nn.Module):
    """Refines tracks over a whole clip. Keywords and parameter names are the published ones.

    Without `use_local_attn` and with `time_encoding` "none", as published, the order of the frames
    changes no class.

    Args:
        hidden_channel: C, width of rows.
        feedforward_channel: Width within the feed-forward layers.
        num_head: Attention heads; divides `hidden_channel`.
        decoder_layer_num: Layers.
        mask_dim: Cm, channels of the mask features.
        class_num: K, without "no object".
        windows: Frames whose masks are made at once in eval mode; changes no result.
        use_local_attn: Two convolutions over time in each layer, over 7 frames.
        time_encoding: "sine" adds the frame's index to queries and keys of the attention over time.
        amplify_change: Rows are joined by their `change`. Not in the publication: where an
            embedding moves little around a large constant, no layer sees that it moves.

    Raises:
        BuildError: A number is out of range.
    """

    def __init__(
        self,
        *,
        hidden_channel: int = 256,
        feedforward_channel: int = 2048,
        num_head: int = 8,
        decoder_layer_num: int = 6,
        mask_dim: int = 256,
        class_num: int = 40,
        windows: int = 3,
        use_local_attn: bool = False,
        time_encoding: TimeEncoding = "none",
        amplify_change: bool = False,
    ) -> None:
        super().__init__()
        if num_head < 1 or hidden_channel % num_head or min(decoder_layer_num, windows) < 1:
            raise BuildError(
                f"refiner: hidden_channel {hidden_channel} must be a multiple of num_head "
                f"{num_head}; layers and windows must be at least 1"
            )
        dim, layers = hidden_channel, decoder_layer_num
        self.windows, self.time_encoding = windows, time_encoding
        self.amplify_change = amplify_change
        self.transformer_obj_self_attention_layers = _stack(
            layers, lambda: SelfAttentionLayer(dim, num_head)
        )
        self.transformer_time_self_attention_layers = _stack(
            layers, lambda: SelfAttentionLayer(dim, num_head)
        )
        self.transformer_cross_attention_layers = _stack(
            layers, lambda: CrossAttentionLayer(dim, num_head)
        )
        self.transformer_ffn_layers = _stack(layers, lambda: FFNLayer(dim, feedforward_channel))
        local = layers if use_local_attn else 0
        self.conv_short_aggregate_layers = _stack(local, lambda: _short_convolution(dim))
        self.conv_norms = _stack(local, lambda: nn.LayerNorm(dim))
        self.decoder_norm = nn.LayerNorm(dim)
        self.class_embed = nn.Linear(dim, class_num + 1)
        self.mask_embed = MLP(dim, dim, mask_dim, 3)
        self.activation_proj = nn.Linear(dim, 1)

    def forward(
        self,
        instance_embeds: Tensor,
        frame_embeds: Tensor,
        mask_features: Tensor,
        padding_mask: Tensor | None = None,
    ) -> RefinerOutput:
        """Return classes and masks of each row; of every layer in training.

        Args:
            instance_embeds: `[B, C, T, N]`.
            frame_embeds: `[B, C, T, Q]`, the segmenter's queries.
            mask_features: `[B, T, Cm, h, w]`, as the pixel decoder gives them.
            padding_mask: `[B, N, T]`; taken for parity with published calls, changes nothing.
        """
        del padding_mask
        levels = self.levels(instance_embeds, frame_embeds)
        levels = levels if self.training else levels[-1:]
        found = [self._predict(level, mask_features) for level in levels]
        logits, masks, weights = found[-1]
        return RefinerOutput(
            pred_logits=logits,
            pred_masks=masks,
            pred_embds=levels[-1].permute(0, 3, 1, 2),
            frame_weights=weights[0] if len(weights) == 1 else weights,
            aux=tuple((logits, masks) for logits, masks, _ in found[:-1]),
        )

    def refine(
        self, instance_embeds: Tensor, frame_embeds: Tensor, *, first_frame: float = 0
    ) -> tuple[Tensor, Tensor]:
        """Return every frame's decoded rows `[B, T, N, C]` and their activations `[B, T, N]`.

        What `classify` and `masks` read; a long video calls it chunk by chunk.

        Args:
            instance_embeds: `[B, C, T, N]`.
            frame_embeds: `[B, C, T, Q]`.
            first_frame: Index of the first one within the video, which `time_encoding` sees.
        """
        last = self.levels(instance_embeds, frame_embeds, first_frame=first_frame)[-1]
        decoded = self.decoder_norm(last)
        return decoded, self.activation_proj(decoded)[..., 0]

    def classify(self, decoded: Tensor, activations: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits `[B, N, K + 1]` of whole clips, and each frame's weight `[B, T, N]`."""
        weights = activations.softmax(1)
        pooled = torch.einsum("btn,btnc->bnc", weights, decoded)
        return self.class_embed(pooled), weights

    def masks(self, decoded: Tensor, mask_features: Tensor) -> Tensor:
        """Return mask logits `[B, n, t, h, w]` of decoded rows `[B, t, n, C]`.

        Args:
            decoded: Of some rows and frames.
            mask_features: `[B, t, Cm, h, w]`.
        """
        return torch.einsum("btnc,btchw->bnthw", self.mask_embed(decoded), mask_features)

    def _predict(self, level: Tensor, mask_features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decoded = self.decoder_norm(level)
        logits, weights = self.classify(decoded, self.activation_proj(decoded)[..., 0])
        frames = level.shape[1]
        step = frames if self.training else self.windows
        masks = torch.cat(
            [
                self.masks(decoded[:, t : t + step], mask_features[:, t : t + step])
                for t in range(0, frames, step)
            ],
            2,
        )
        return logits[:, None].expand(-1, frames, -1, -1), masks, weights

    def levels(
        self, instance_embeds: Tensor, frame_embeds: Tensor, *, first_frame: float = 0
    ) -> list[Tensor]:
        """Return the rows after each layer, `[B, T, N, C]`; only the last one in eval mode."""
        x = instance_embeds.permute(0, 2, 3, 1)  # [B, T, N, C]
        if self.amplify_change:
            x = x + change(x)
        clips, frames, rows, dim = x.shape
        memory = frame_embeds.permute(3, 0, 2, 1).flatten(1, 2)  # [Q, B * T, C]
        place = self._time(first_frame, frames, x)
        found: list[Tensor] = []
        for index in range(len(self.transformer_ffn_layers)):
            x = x.transpose(0, 1).reshape(frames, clips * rows, dim)
            x = self.transformer_time_self_attention_layers[index](x, place)
            if len(self.conv_norms):
                x = self._convolve(index, x)
            x = x.reshape(frames, clips, rows, dim).permute(2, 1, 0, 3)
            x = x.reshape(rows, clips * frames, dim)
            x = self.transformer_obj_self_attention_layers[index](x)
            x = self.transformer_cross_attention_layers[index](x, memory)
            x = self._feed_forward(index, x)
            x = x.reshape(rows, clips, frames, dim).permute(1, 2, 0, 3)
            if self.training:
                found.append(x)
        return found or [x]

    def _time(self, first: float, frames: int, like: Tensor) -> Tensor | None:
        """Return sines of the frames' indices, `[T, 1, C]`; None where order is not to be seen."""
        if self.time_encoding == "none":
            return None
        dim, dtype = like.shape[-1], torch.promote_types(like.dtype, torch.float32)
        place = first + torch.arange(frames, device=like.device, dtype=dtype)
        pair = torch.arange(0, dim, 2, device=like.device, dtype=dtype)
        angle = place[:, None] * torch.exp(pair * (-math.log(10000.0) / dim))  # [T, C / 2]
        both = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :dim]
        return both[:, None].to(like.dtype)

    def _convolve(self, index: int, x: Tensor) -> Tensor:
        """Mix each row with its neighbours in time, `[T, R, C]`."""
        rows = x.permute(1, 2, 0)  # [R, C, T]
        mixed = self.conv_short_aggregate_layers[index](rows) + rows
        return self.conv_norms[index](mixed.permute(2, 0, 1))

    def _feed_forward(self, index: int, x: Tensor) -> Tensor:
        """Run the feed-forward layer; in slices where no gradient is kept, for flat memory."""
        layer = self.transformer_ffn_layers[index]
        flat = x.flatten(0, 1)
        if torch.is_grad_enabled() or len(flat) <= _FFN_ROWS:
            return layer(x)
        return torch.cat([layer(part) for part in flat.split(_FFN_ROWS)]).view_as(x)


def change(rows: Tensor, least: float = 1e-5) -> Tensor:
    """Return each row's distance from its mean over time, in units of its spread, `[B, T, N, C]`.

    Source: Ulyanov, Vedaldi and Lempitsky, "Instance Normalization", 2016, eq. 4, over time instead
    of place and without parameters.

    Args:
        rows: `[B, T, N, C]`.
        least: Added to the variance, so that rows that never move stay at zero.
    """
    variance, mean = torch.var_mean(rows, 1, correction=0, keepdim=True)
    return (rows - mean) * (variance + least).rsqrt()


def _short_convolution(dim: int) -> nn.Sequential:
    options = {"padding": "same", "padding_mode": "replicate"}
    return nn.Sequential(
        nn.Conv1d(dim, dim, 5, **options),  # pyright: ignore[reportArgumentType]  # a dict of two
        nn.ReLU(),
        nn.Conv1d(dim, dim, 3, **options),  # pyright: ignore[reportArgumentType]  # a dict of two
    )


def _stack(layers: int, make: Callable[[], nn.Module]) -> nn.ModuleList:
    return nn.ModuleList(make() for _ in range(layers))
