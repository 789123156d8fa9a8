"""Architecture and first weights of the tiny Grounding DINO."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig


def tiny_model(vocabulary: int) -> GroundingDinoForObjectDetection:
    """Build a model with weights from torch's global generator."""
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(  # strides 8, 16 and 32
            patch_size=8,
            embed_dim=64,
            depths=[2, 2, 2],
            num_heads=[4, 8, 8],
            window_size=8,
            mlp_ratio=2.0,
            drop_path_rate=0.0,
            out_indices=[1, 2, 3],
        ),
        text_config=BertConfig(
            vocab_size=vocabulary,
            hidden_size=128,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=256,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        num_feature_levels=3,
        d_model=96,
        encoder_layers=1,
        decoder_layers=3,
        encoder_ffn_dim=192,
        decoder_ffn_dim=192,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_n_points=2,
        num_queries=120,
        dropout=0.0,
        fusion_droppath=0.0,
    )
    model = GroundingDinoForObjectDetection(config)
    initialize(model)
    return model


@torch.no_grad()
def initialize(model: GroundingDinoForObjectDetection) -> None:
    """Initialize weights as DETR and Grounding DINO do; the library's initialization is not meant for training.

    BERT keeps its random embeddings: what words mean is learned by the layers after it, so that a word that no scene
    has used looks like one that scenes have used.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and not name.endswith(("sampling_offsets", "attention_weights")):
            nn.init.xavier_uniform_(module.weight)
    detector = model.model
    nn.init.normal_(detector.query_position_embeddings.weight, std=0.1)  # queries differ by their boxes
    nn.init.normal_(detector.text_backbone.embeddings.position_embeddings.weight, std=0.005)
    for head in (*model.bbox_embed, detector.encoder_output_bbox_embed):
        nn.init.zeros_(head.layers[-1].weight)
    for layer in detector.encoder.layers:  # couple text and image features from the start
        nn.init.constant_(layer.fusion_layer.text_param, 0.1)
        nn.init.constant_(layer.fusion_layer.vision_param, 0.1)
    for module in detector.backbone.modules():
        if hasattr(module, "relative_position_bias_table"):
            module.relative_position_bias_table.copy_(neighbours(8, module.relative_position_bias_table.shape[1]))
    # Logits are products of image and text features. They start as about -4: most queries show nothing.
    sign = torch.randn(model.config.d_model).sign() / math.sqrt(model.config.d_model)
    words = detector.encoder.layers[-1].text_enhancer_layer.layer_norm_after
    nn.init.constant_(words.weight, 0.3)
    words.bias.copy_(2 * sign)
    for norm in (detector.enc_output_norm, detector.decoder.layer_norm):
        nn.init.constant_(norm.weight, 0.2)
        norm.bias.copy_(-2 * sign)


def neighbours(window: int, heads: int) -> Tensor:
    """Return position biases ((2 window - 1)^2, heads) by which each head of a window looks at one neighbour.

    Attention then starts like a convolution, from which little data is learned faster (compare arXiv:2103.10697).
    """
    steps = torch.arange(1 - window, window, dtype=torch.float32)
    offsets = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1).flatten(0, 1)
    around = torch.tensor([(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1)], dtype=torch.float32)
    away = (offsets[:, None] - around[:heads]).square().sum(-1)
    return (-0.7 * away).clamp(min=-6)
