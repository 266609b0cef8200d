"""FT-Transformer: a token a feature and one for the answer, through a stack of attention blocks.

Source: Gorishniy, Rubachev, Khrulkov, Babenko, Revisiting Deep Learning Models for Tabular Data (NeurIPS 2021),
section 3.3 and appendix E.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from causeway.networks.tabular import Body


class FTTransformer(Body):
    """Log-odds (n, 1) from normalised features (n, n_features).

    d_token: the length of a token; n_heads must divide it. d_hidden: hidden units of a block's feed-forward part.
    dropout: of hidden units, while training; the paper's dropout of attention weights costs a CPU much time.
    """

    def __init__(
        self,
        n_features: int,
        *,
        d_token: int,
        n_blocks: int,
        n_heads: int,
        d_hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.tokenizer = Tokenizer(n_features, d_token)
        self.blocks = nn.ModuleList(
            Block(d_token, n_heads, d_hidden, dropout, is_first=i == 0) for i in range(n_blocks)
        )
        self.norm = nn.LayerNorm(d_token)
        self.output = nn.Linear(d_token, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(n, 1)."""
        tokens = self.tokenizer(features)
        *blocks, last = self.blocks
        for block in blocks:
            tokens = block(tokens, tokens)
        # Nothing reads the other tokens of the last block.
        answer: Tensor = last(tokens[:, :1], tokens)
        logits: Tensor = self.output(functional.relu(self.norm(answer[:, 0])))
        return logits


class Tokenizer(nn.Module):
    """Tokens (n, 1 + n_features, d_token): that of the answer, [CLS], first; then each feature's weight and bias."""

    def __init__(self, n_features: int, d_token: int) -> None:
        super().__init__()
        bound = d_token**-0.5
        self.weight = nn.Parameter(torch.empty(n_features, d_token).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n_features, d_token).uniform_(-bound, bound))
        self.answer = nn.Parameter(torch.empty(1, 1, d_token).uniform_(-bound, bound))

    def forward(self, features: Tensor) -> Tensor:
        """From (n, n_features)."""
        of_features = features.unsqueeze(-1) * self.weight + self.bias
        return torch.cat([self.answer.expand(features.shape[0], -1, -1), of_features], dim=1)


class Block(nn.Module):
    """Attention, then a gated feed-forward part (ReGLU), each normalised before and added to what came in.

    The first block's attention has no normalisation before it (appendix E.1 of the paper).
    """

    def __init__(self, d_token: int, n_heads: int, d_hidden: int, dropout: float, *, is_first: bool) -> None:
        super().__init__()
        self.norm_attention = nn.Identity() if is_first else nn.LayerNorm(d_token)
        self.attention = Attention(d_token, n_heads)
        self.norm_hidden = nn.LayerNorm(d_token)
        self.hidden = nn.Linear(d_token, 2 * d_hidden)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(d_hidden, d_token)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """`queries` (n, n_queries, d_token) after they have read `tokens` (n, n_tokens, d_token)."""
        x = queries + self.attention(self.norm_attention(queries), self.norm_attention(tokens))
        value, gate = self.hidden(self.norm_hidden(x)).chunk(2, dim=-1)
        updated: Tensor = x + self.output(self.dropout(value * functional.relu(gate)))
        return updated


class Attention(nn.Module):
    """Multi-head scaled dot-product attention."""

    def __init__(self, d_token: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(d_token, d_token)
        self.key_value = nn.Linear(d_token, 2 * d_token)
        self.output = nn.Linear(d_token, d_token)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """(n, n_queries, d_token) from the same and (n, n_tokens, d_token)."""
        key, value = self.key_value(tokens).chunk(2, dim=-1)
        read = functional.scaled_dot_product_attention(
            self._heads(self.query(queries)), self._heads(key), self._heads(value)
        )
        output: Tensor = self.output(read.transpose(1, 2).flatten(2))
        return output

    def _heads(self, x: Tensor) -> Tensor:
        """(n, n_heads, n_tokens, d_token / n_heads)."""
        return x.reshape(x.shape[0], x.shape[1], self.n_heads, -1).transpose(1, 2)
