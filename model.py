"""Networks: the encoder, its multi-task heads, the classifier; transfer by gene name; the one way to embed cells."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from stages.batch import Share, SparseRows

SPARSE_FROM = 5_000  # cells: fewer are made dense, as they always were, to the last digit
UNITS = 50  # hidden units at a time, whose weights then stay in the processor's cache
CLASSIFIER_HIDDEN = 100  # published width of the layer between the encoder and the types


class Encoder(nn.Module):
    """One linear layer, genes -> hidden; whoever trains it applies a sigmoid to its output, as published."""

    def __init__(self, genes: int, hidden: int):
        super().__init__()
        self.linear = nn.Linear(genes, hidden)

    @property
    def hidden(self) -> int:
        return self.linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)  # (B, H)


class ProjectedEncoder(nn.Module):
    """An encoder that sees D principal components of the cells; a linear map still, so it folds into an Encoder."""

    def __init__(self, components: Tensor, centre: Tensor, hidden: int):
        """`components` (D, G) and `centre` (G,) of a PCA; both stay as they are in training."""
        super().__init__()
        self.register_buffer("components", components)
        self.register_buffer("centre", centre)
        self.linear = nn.Linear(len(components), hidden)

    @property
    def hidden(self) -> int:
        return self.linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        return self.linear((x - self.centre) @ self.components.T)  # (B, H)

    @torch.no_grad()
    def start_from(self, encoder: Encoder) -> "ProjectedEncoder":
        """Take over what `encoder` does on the span of the components."""
        weight = encoder.linear.weight
        self.linear.weight.copy_(weight @ self.components.T)
        self.linear.bias.copy_(encoder.linear.bias + weight @ self.centre)
        return self

    @torch.no_grad()
    def folded(self) -> Encoder:
        """The same map as one layer on genes: W z + b with z = (x - centre) C' is (W C) x + (b - W C centre)."""
        encoder = Encoder(self.components.shape[1], self.hidden).to(self.centre.device)
        weight = self.linear.weight @ self.components  # (H, G)
        encoder.linear.weight.copy_(weight)
        encoder.linear.bias.copy_(self.linear.bias - weight @ self.centre)
        return encoder


class MultiTask(nn.Module):
    """An encoder with a head for every partition of every dataset.

    `partitions` lists, for each dataset, the number of clusters K of its partitions. A dataset's heads are one linear
    layer whose outputs are split by partition: the same numbers as a layer each, in one product.
    """

    def __init__(
        self, encoder: Encoder | ProjectedEncoder, partitions: Sequence[Sequence[int]], *, squash: bool = True
    ):
        super().__init__()
        self.encoder = encoder
        self.partitions = [list(sizes) for sizes in partitions]
        self.heads = nn.ModuleList(nn.Linear(encoder.hidden, sum(sizes)) for sizes in self.partitions)
        self.squash = squash  # the published sigmoid on the logits, before cross-entropy

    def forward(self, x: Tensor, sizes: Sequence[int], targets: Sequence[Tensor], share: Share | None = None) -> Tensor:
        """The loss of a batch of all datasets: `x` (B, G), rows per dataset, targets (n_i, P) each.

        Cross-entropy, averaged over a dataset's rows, summed over partitions and datasets (as published). Of a `share`
        of the batch it is that part of the whole batch's loss.
        """
        h = torch.sigmoid(self.encoder(x))  # (B, H): every dataset in one pass
        loss = x.new_zeros(())
        for rows, head, clusters, target, whole in zip(
            h.split(list(sizes)), self.heads, self.partitions, targets, _whole(sizes, share), strict=True
        ):
            logits = head(rows)  # (n_i, sum of K)
            if self.squash:
                logits = torch.sigmoid(logits)
            for part, column in zip(logits.split(clusters, dim=1), target.unbind(dim=1), strict=True):
                loss = loss + _mean_loss(part, column, whole)
        return loss


def _whole(sizes: Sequence[int], share: Share | None) -> Sequence[int | None]:
    """The rows of each task in the batch that this is a share of; None where this is all of it."""
    return share.sizes if share else [None] * len(sizes)


def _mean_loss(logits: Tensor, target: Tensor, whole: int | None) -> Tensor:
    """Cross-entropy averaged over rows: these, or the `whole` batch's, whose others are elsewhere."""
    if whole is None:
        return nn.functional.cross_entropy(logits, target)
    return nn.functional.cross_entropy(logits, target, reduction="sum") / whole


class CentredMultiTask(nn.Module):
    """The tasks of scpretrain2: genes centred and scaled, nothing squashed, a dataset weighs the root of its size.

    `start` (H, G) are the encoder's first weights, on genes divided by `scale` (G,) after each dataset's `means`
    (D, G) were taken away; `cells` counts the cells of every dataset, `partitions` is as in `MultiTask`.
    """

    def __init__(
        self,
        start: Tensor,
        scale: Tensor,
        means: Tensor,
        partitions: Sequence[Sequence[int]],
        cells: Sequence[int],
        *,
        dropout: float,
    ):
        super().__init__()
        self.encoder = Encoder(start.shape[1], start.shape[0])
        with torch.no_grad():
            self.encoder.linear.weight.copy_(start)
            self.encoder.linear.bias.zero_()
        self.encoder.linear.bias.requires_grad_(False)  # the heads have their own
        self.register_buffer("scale", scale)
        self.register_buffer("means", means)
        roots = torch.tensor(cells, dtype=torch.float64).sqrt()
        self.shares = (roots / roots.sum()).tolist()
        self.partitions = [list(sizes) for sizes in partitions]
        self.heads = nn.ModuleList(nn.Linear(len(start), sum(sizes)) for sizes in self.partitions)
        self.dropout = dropout  # share of genes hidden from the encoder in every cell of a training step

    def forward(self, x: Tensor, sizes: Sequence[int], targets: Sequence[Tensor], share: Share | None = None) -> Tensor:
        """The loss of a batch of all datasets, called as `MultiTask`; averaged over a dataset's partitions."""
        centred = [part - mean for part, mean in zip(x.split(list(sizes)), self.means, strict=True)]
        z = torch.cat(centred).div_(self.scale)  # (B, G)
        h = self.encoder(self._hide(z, share))  # (B, H)
        loss = x.new_zeros(())
        for rows, head, clusters, target, weight, whole in zip(
            h.split(list(sizes)),
            self.heads,
            self.partitions,
            targets,
            self.shares,
            _whole(sizes, share),
            strict=True,
        ):
            parts = zip(head(rows).split(clusters, dim=1), target.unbind(dim=1), strict=True)
            loss = loss + weight / len(clusters) * sum(_mean_loss(*part, whole) for part in parts)
        return loss

    def _hide(self, z: Tensor, share: Share | None) -> Tensor:
        """`z` (B, G) without the genes that are left out; of a share those that the whole batch would lose there."""
        if share is None:
            return nn.functional.dropout(z, self.dropout, self.training)
        ones = z.new_ones(sum(share.sizes), z.shape[1])  # every process draws for the whole batch: the same chance
        return z * nn.functional.dropout(ones, self.dropout, self.training)[share.places]

    @torch.no_grad()
    def folded(self) -> Encoder:
        """The encoder on log-normalised genes themselves: the scale goes into its weights."""
        encoder = Encoder(self.encoder.linear.in_features, self.encoder.hidden).to(self.scale.device)
        encoder.linear.weight.copy_(self.encoder.linear.weight / self.scale)
        encoder.linear.bias.zero_()
        return encoder


class Classifier(nn.Module):
    """sigmoid(encoder) -> linear 100 -> sigmoid -> one logit a type, as published."""

    def __init__(self, encoder: Encoder | ProjectedEncoder, types: int):
        super().__init__()
        self.encoder = encoder
        self.middle = nn.Linear(encoder.hidden, CLASSIFIER_HIDDEN)
        self.out = nn.Linear(CLASSIFIER_HIDDEN, types)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.sigmoid(self.encoder(x))  # (B, H)
        return self.out(torch.sigmoid(self.middle(h)))  # (B, L)


@torch.no_grad()
def transfer(target: Encoder, genes: Sequence[str], source: Encoder, source_genes: Sequence[str]) -> int:
    """Copy into `target` the columns of `source` for the genes both know, and the bias; returns how many genes.

    `genes` and `source_genes` name the columns of the two. Genes the source does not know keep their random start.
    Raises ValueError when the two differ in hidden units.
    """
    if target.hidden != source.hidden:
        raise ValueError(f"the checkpoint has {source.hidden} hidden units, this run asks for {target.hidden}; "
                         f"use --hid {source.hidden}")  # fmt: skip
    column_of = {gene: column for column, gene in enumerate(source_genes)}
    known = [(place, column_of[gene]) for place, gene in enumerate(genes) if gene in column_of]
    if known:
        places, columns = (torch.tensor(side) for side in zip(*known, strict=True))
        target.linear.weight[:, places] = source.linear.weight[:, columns]
    target.linear.bias.copy_(source.linear.bias)
    return len(known)


@torch.no_grad()
def embed(encoder: nn.Module, cells: SparseRows, *, batch: int = 4096) -> Tensor:
    """The encoder's linear output (N, H) for cells whose columns are the encoder's genes, on the cells' device."""
    encoder.eval()
    parts = [encoder(cells[start : start + batch]) for start in range(0, len(cells), batch)]
    return torch.cat(parts)


def embed_counts(encoder: Encoder, counts: csr_matrix, *, log1p: bool = True) -> np.ndarray:
    """`embed` for a csr matrix (N, G), as numpy (N, H): counts, or with log1p=False values normalised already.

    On the CPU the products of more than 5,000 cells are sparse: a third of the time at 6 % of the entries.
    """
    device = next(encoder.parameters()).device
    if device.type == "cpu" and counts.shape[0] > SPARSE_FROM:
        return _embed_sparse(encoder.linear, counts, log1p)
    return embed(encoder, SparseRows(counts, device, log1p=log1p)).cpu().numpy()


def _embed_sparse(linear: nn.Linear, counts: csr_matrix, log1p: bool) -> np.ndarray:
    """The linear layer's output (N, H) without a dense (B, G)."""
    weight, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
    parts = [np.ascontiguousarray(part.T) for part in np.split(weight, range(UNITS, len(weight), UNITS))]  # (G, 50)
    out = np.empty((counts.shape[0], len(weight)), np.float32)
    for start in range(0, len(out), 4096):
        block = counts[start : start + 4096]
        block = block.log1p() if log1p else block
        out[start : start + 4096] = np.hstack([block @ part for part in parts]) + bias
    return out
