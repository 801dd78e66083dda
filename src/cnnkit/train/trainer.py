"""Lightning's Trainer as a recipe wants it."""

from typing import Any

from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Callback, Trainer

from cnnkit.train.callbacks import AtomicIO
from cnnkit.train.directory import Directory
from cnnkit.train.distributed import ALONE, World, strategy
from cnnkit.train.recipe import Recipe

PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def make_trainer(
    recipe: Recipe,
    directory: Directory,
    callbacks: list[Callback],
    world: World = ALONE,
    skips: bool = False,
) -> Trainer:
    """Lightning's Trainer with its own files, bars and tables off: the callbacks do that.

    Args:
        skips: whether there are steps that leave out some of the weights.
    """
    kind, _, index = recipe.device.partition(":")
    plugins: list[Any] = [AtomicIO(directory, world)]
    shared: dict[str, Any] = {"devices": [int(index)] if index else 1}
    if world.size > 1:
        plugins.append(TorchElasticEnvironment())
        shared = {
            "devices": world.near,
            "num_nodes": world.size // world.near,
            "strategy": strategy(recipe, world, skips),
            "use_distributed_sampler": False,  # `Order` has shared the batches
        }
    return Trainer(
        accelerator="gpu" if kind == "cuda" else kind,
        **shared,
        precision=PRECISION[recipe.precision],  # type: ignore[arg-type]
        max_epochs=recipe.epochs,
        accumulate_grad_batches=recipe.accumulate,
        gradient_clip_val=recipe.clip,
        plugins=plugins,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=True,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=directory.path,
    )
