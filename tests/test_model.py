"""Networks against their formulas: run with `python -m pytest tests/test_model.py`."""

import math

import numpy as np
import pytest
import torch
from conftest import draw

from model import CentredMultiTask, Classifier, Encoder, MultiTask, ProjectedEncoder, embed, embed_counts, transfer
from stages.batch import SparseRows


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def weights(linear):
    return linear.weight.detach().double().numpy(), linear.bias.detach().double().numpy()


@pytest.mark.parametrize("squash", [True, False])
def test_the_loss_of_two_datasets_is_the_formula_written_out(squash):
    sizes, partitions = [5, 3], [[4, 8, 3], [2, 2, 2]]
    model = MultiTask(Encoder(12, 6), partitions, squash=squash)
    x = torch.rand(8, 12)
    targets = [
        torch.stack([torch.randint(k, (n,)) for k in ks], dim=1) for n, ks in zip(sizes, partitions, strict=True)
    ]
    weight, bias = weights(model.encoder.linear)
    expected, row = 0.0, 0
    for n, ks, head, target in zip(sizes, partitions, model.heads, targets, strict=True):
        head_weight, head_bias = weights(head)
        h = sigmoid(x[row : row + n].double().numpy() @ weight.T + bias)
        first = 0
        for part, k in enumerate(ks):
            losses = []
            for cell in range(n):
                logits = head_weight[first : first + k] @ h[cell] + head_bias[first : first + k]
                logits = sigmoid(logits) if squash else logits  # the published sigmoid on the logits
                losses.append(np.log(np.exp(logits).sum()) - logits[target[cell, part]])
            expected += np.mean(losses)
            first += k
        row += n
    assert model(x, sizes, targets).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("clusters", [2, 7, 100])
def test_with_the_sigmoid_the_loss_stays_above_its_bound(clusters):
    model = MultiTask(Encoder(12, 6), [[clusters]])
    bound = math.log(math.e + clusters - 1) - 1
    with torch.no_grad():  # as sure as can be, and right
        model.heads[0].weight.zero_()
        model.heads[0].bias.fill_(-50.0)
        model.heads[0].bias[0] = 50.0
    loss = model(torch.rand(9, 12), [9], [torch.zeros(9, 1, dtype=torch.int64)]).item()
    assert loss == pytest.approx(bound, abs=1e-5)
    assert (
        MultiTask(Encoder(12, 6), [[clusters]])(torch.rand(9, 12), [9], [torch.zeros(9, 1, dtype=torch.int64)]) > bound
    )


def test_the_encoder_runs_once_a_step_whatever_the_number_of_datasets():
    model = MultiTask(Encoder(12, 6), [[2, 2], [3, 2], [2, 4]])
    calls = []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    model(torch.rand(6, 12), [2, 3, 1], [torch.zeros(n, 2, dtype=torch.int64) for n in (2, 3, 1)])
    assert len(calls) == 1


def test_every_dataset_teaches_its_own_heads_and_the_encoder():
    model = MultiTask(Encoder(12, 6), [[2], [3]])
    x = torch.rand(4, 12)
    loss = model(x, [2, 2], [torch.zeros(2, 1, dtype=torch.int64)] * 2)
    loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def projected(hidden=6):
    components = torch.linalg.qr(torch.rand(12, 4))[0].T.contiguous()
    return ProjectedEncoder(components, torch.rand(12), hidden)


def test_a_projected_encoder_folds_to_the_same_map():
    encoder, x = projected(), torch.rand(40, 12)
    folded = encoder.folded()
    assert isinstance(folded, Encoder) and folded.hidden == 6
    torch.testing.assert_close(folded(x), encoder(x), atol=1e-5, rtol=1e-5)


def test_a_projected_encoder_starts_as_the_encoder_on_the_span_of_its_components():
    encoder, start = projected(), Encoder(12, 6)
    encoder.start_from(start)
    x = encoder.centre + torch.rand(40, 4) @ encoder.components
    torch.testing.assert_close(encoder(x), start(x), atol=1e-5, rtol=1e-5)


def test_training_leaves_the_components_alone():
    assert {name for name, _ in projected().named_parameters()} == {"linear.weight", "linear.bias"}


def test_transfer_goes_by_gene_name():
    source, target = Encoder(3, 6), Encoder(4, 6)
    before = target.linear.weight.detach().clone()
    assert transfer(target, ["C", "X", "A", "Y"], source, ["A", "B", "C"]) == 2
    after = target.linear.weight
    torch.testing.assert_close(after[:, 0], source.linear.weight[:, 2])
    torch.testing.assert_close(after[:, 2], source.linear.weight[:, 0])
    torch.testing.assert_close(after[:, [1, 3]], before[:, [1, 3]])  # the random start of genes it does not know
    torch.testing.assert_close(target.linear.bias, source.linear.bias)
    assert all(parameter.requires_grad for parameter in target.parameters())


def test_transfer_of_all_genes_in_another_order_is_the_same_map():
    source, target = Encoder(12, 6), Encoder(12, 6)
    genes = [f"G{number}" for number in range(12)]
    order = torch.randperm(12)
    assert transfer(target, [genes[place] for place in order], source, genes) == 12
    x = torch.rand(40, 12)
    torch.testing.assert_close(target(x[:, order]), source(x))


def test_transfer_with_no_gene_in_common_copies_the_bias_and_other_widths_are_refused():
    source, target = Encoder(3, 6), Encoder(2, 6)
    assert transfer(target, ["X", "Y"], source, ["A", "B", "C"]) == 0
    torch.testing.assert_close(target.linear.bias, source.linear.bias)
    with pytest.raises(ValueError, match="6 hidden units.*asks for 5.*--hid 6"):
        transfer(Encoder(2, 5), ["A", "B"], source, ["A", "B", "C"])


def test_the_classifier_is_the_published_stack():
    model, x = Classifier(Encoder(12, 6), 3), torch.rand(5, 12)
    layers = [weights(layer) for layer in (model.encoder.linear, model.middle, model.out)]
    h = sigmoid(x.double().numpy() @ layers[0][0].T + layers[0][1])
    h = sigmoid(h @ layers[1][0].T + layers[1][1])
    assert h.shape == (5, 100)
    np.testing.assert_allclose(model(x).detach().numpy(), h @ layers[2][0].T + layers[2][1], rtol=1e-4, atol=1e-5)


def test_embedding_is_the_linear_output_whatever_the_batch(monkeypatch):
    counts, _ = draw(0)
    encoder = Encoder(12, 6)
    weight, bias = weights(encoder.linear)
    expected = np.log1p(counts.toarray()) @ weight.T + bias
    rows = SparseRows(counts, log1p=True)
    for batch in (7, 4096):
        embedded = embed(encoder, rows, batch=batch)
        assert not embedded.requires_grad
        np.testing.assert_allclose(embedded.numpy(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(embed_counts(encoder, counts), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(embed_counts(encoder, counts.log1p(), log1p=False), expected, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr("model.SPARSE_FROM", 3)
    monkeypatch.setattr("model.UNITS", 4)
    monkeypatch.setattr("model.embed", lambda *_, **__: pytest.fail("made dense"))
    np.testing.assert_allclose(embed_counts(encoder, counts), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(embed_counts(encoder, counts.log1p(), log1p=False), expected, rtol=1e-4, atol=1e-5)


# -- scpretrain2


def centred(dropout: float = 0.0) -> CentredMultiTask:
    return CentredMultiTask(
        torch.randn(6, 12), torch.rand(12) + 0.5, torch.rand(2, 12), [[4, 3], [2, 2]], [400, 100], dropout=dropout
    )


def test_the_centred_loss_of_two_datasets_is_the_formula_written_out():
    model = centred()
    x = torch.rand(8, 12)
    targets = [torch.stack([torch.randint(k, (n,)) for k in ks], dim=1) for n, ks in ((5, (4, 3)), (3, (2, 2)))]
    expected, row = 0.0, 0
    for place, (n, share) in enumerate(((5, 2 / 3), (3, 1 / 3))):  # roots of 400 and 100 cells
        h = (x[row : row + n] - model.means[place]) / model.scale @ model.encoder.linear.weight.T
        first = 0
        for part, k in enumerate(model.partitions[place]):
            logits = model.heads[place](h)[:, first : first + k]
            expected += share / 2 * torch.nn.functional.cross_entropy(logits, targets[place][:, part])
            first += k
        row += n
    assert model(x, [5, 3], targets).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_batch_handed_in_stays_as_it_is_and_genes_are_hidden_in_training_only():
    model = centred(dropout=0.5)
    x = torch.rand(8, 12)
    before, targets = x.clone(), [torch.zeros(5, 2, dtype=torch.int64), torch.zeros(3, 2, dtype=torch.int64)]
    model.train()
    assert model(x, [5, 3], targets).item() != model(x, [5, 3], targets).item()
    model.eval()
    assert model(x, [5, 3], targets).item() == model(x, [5, 3], targets).item()
    assert torch.equal(x, before)


def test_the_scale_folds_into_one_linear_layer():
    model = centred()
    x = torch.rand(5, 12)
    assert torch.allclose(model.folded()(x), (x / model.scale) @ model.encoder.linear.weight.T, atol=1e-5)
    assert not model.encoder.linear.bias.requires_grad and (model.folded().linear.bias == 0).all()
