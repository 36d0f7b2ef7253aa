"""The optimizer for weight matrices, against its definition."""

import torch

from fastchat.train.muon import Muon, orthogonal


def test_singular_values_come_near_one_in_any_shape() -> None:
    torch.manual_seed(0)
    for rows, columns in ((6, 6), (4, 9), (9, 4)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(3, rows, columns)).float())
        assert values.min() > 0.3 and values.max() < 1.4


def test_vectors_and_embeddings_move_as_adamw_moves_them() -> None:
    torch.manual_seed(0)
    ours = {"embed.weight": torch.randn(5, 3), "norm": torch.randn(3)}
    theirs = [x.clone().requires_grad_() for x in ours.values()]
    named = [(name, x.requires_grad_()) for name, x in ours.items()]
    mine = Muon(named, lr=0.1, matrix_lr=1.0, betas=(0.8, 0.9))
    adamw = torch.optim.AdamW(theirs, lr=0.1, betas=(0.8, 0.9), weight_decay=0.0)
    for _ in range(3):
        for x, y in zip(ours.values(), theirs, strict=True):
            x.grad = torch.randn_like(x)
            y.grad = x.grad.clone()
        mine.step()
        adamw.step()
    for x, y in zip(ours.values(), theirs, strict=True):
        torch.testing.assert_close(x, y)


def test_matrices_inside_take_steps_of_one_size_whatever_the_gradient() -> None:
    torch.manual_seed(0)
    weight = torch.zeros(4, 4, requires_grad=True)
    optimizer = Muon([("layers.0.weight", weight)], lr=1.0, matrix_lr=0.5)
    weight.grad = 1e-3 * torch.randn(4, 4)
    optimizer.step()
    values = torch.linalg.svdvals(weight.detach())
    assert values.min() > 0.15 and values.max() < 0.7


def test_a_saved_state_goes_on_where_it_stopped() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(4, 2, 3)
    weights = [torch.ones(2, 3, requires_grad=True) for _ in range(2)]
    first = Muon([("w", weights[0])], lr=0.1, matrix_lr=0.1)
    for gradient in gradients:
        weights[0].grad = gradient.clone()
        first.step()
    second = Muon([("w", weights[1])], lr=0.1, matrix_lr=0.1)
    for i, gradient in enumerate(gradients):
        if i == 2:
            state = second.state_dict()
            second = Muon([("w", weights[1])], lr=0.1, matrix_lr=0.1)
            second.load_state_dict(state)
        weights[1].grad = gradient.clone()
        second.step()
    torch.testing.assert_close(weights[0], weights[1])
