"""Task towers, and the heads that turn their logits into probabilities of the funnel."""

from torch import Tensor, nn

from dist_mtl.model.layers import MLP, Noise


class Tower(nn.Module):
    """One task: its input -> (task representation h, logit). h is the last hidden layer, where tasks are aligned."""

    def __init__(self, inputs: int, widths: tuple[int, ...], rate: float) -> None:
        super().__init__()
        self.hidden = MLP(inputs, widths, rate)
        self.logit = nn.Linear(self.hidden.outputs, 1)

    def forward(self, x_BI: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        h_BO = self.hidden(x_BI, noise)
        return h_BO, self.logit(h_BO).squeeze(-1)
