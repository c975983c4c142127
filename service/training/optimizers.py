"""What trains a target or a draft: Muon for the matrices between a layer's vectors, AdamW for all else."""

from torch import nn, optim

from service.model.presets import Recipe
from service.training.muon import BatchedMuon

# Where a draft stands and how sure it is: scalars and embeddings, of more dimensions than one for convenience.
_NOT_DECAYED = ("position.", "log_sharpness")
_BETWEEN_VECTORS = "_proj.weight"  # of attention and of the feed-forward part, in targets and drafts alike


def optimizers_for(model: nn.Module, recipe: Recipe) -> list[optim.Optimizer]:
    """Optimisers of one rate each step, which together hold all parameters of `model`.

    Muon (its scale matched to AdamW's, arXiv 2502.16982) makes every direction of a matrix's update count alike.
    Embeddings, heads, vectors and scalars are no maps between vectors of a layer and stay with AdamW.
    """
    named = list(model.named_parameters())
    matrices = [parameter for name, parameter in named if name.endswith(_BETWEEN_VECTORS)]
    others = [(name, parameter) for name, parameter in named if not name.endswith(_BETWEEN_VECTORS)]
    groups = [
        {"params": [p for name, p in others if decays(name, p)], "weight_decay": recipe.weight_decay},
        {"params": [p for name, p in others if not decays(name, p)], "weight_decay": 0.0},
    ]
    return [
        BatchedMuon(matrices, lr=recipe.learning_rate, weight_decay=recipe.weight_decay),
        optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True),
    ]


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay is good for a parameter of this name: matrices alone."""
    return parameter.ndim >= 2 and not name.startswith(_NOT_DECAYED)
