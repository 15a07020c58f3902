"""LoRA: adapters injected in place, so that module paths stay what they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_core.errors import BuildError, PluginError

if TYPE_CHECKING:
    from torch import nn

    from mlkit_core.config.frame import LoraOptions


def inject(where: str, encoder: nn.Module, options: LoraOptions) -> None:
    """Add adapters to the encoder's linear layers and freeze everything else of it.

    Output is unchanged at first: the second factor starts at zero.

    Args:
        where: The part, for errors.
        encoder: Its `lora_targets` are the default targets.
        options: Rank, alpha, targets.

    Raises:
        BuildError: No target is known, or none is found.
        PluginError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as err:
        raise PluginError(
            f"{where}.lora: peft is not installed", hint="pip install 'mlkit-core[lora]'"
        ) from err
    targets = list(options.targets or getattr(encoder, "lora_targets", ()))
    if not targets:
        raise BuildError(
            f"{where}.lora: this encoder names no targets", hint="say `lora: {targets: […]}`"
        )
    alpha = options.alpha if options.alpha is not None else float(options.rank)
    config = LoraConfig(r=options.rank, lora_alpha=alpha, target_modules=targets)  # pyright: ignore[reportArgumentType]  # float alpha works
    try:
        inject_adapter_in_model(config, encoder)
    except ValueError as err:
        raise BuildError(f"{where}.lora: {err}") from err
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_("lora_" in name)


def merge(encoder: nn.Module) -> None:
    """Fold the adapters into the layers below them and remove them; output is unchanged."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(encoder.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(encoder.get_submodule(parent), child, module.get_base_layer())
    for parameter in encoder.parameters():
        parameter.requires_grad_(True)
