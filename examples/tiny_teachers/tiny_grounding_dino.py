"""Architecture and first weights of the tiny Grounding DINO."""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers import BertConfig, ConvNextV2Config, GroundingDinoConfig, GroundingDinoForObjectDetection


def tiny_model(vocabulary: int) -> GroundingDinoForObjectDetection:
    """Build a model with weights from torch's global generator."""
    config = GroundingDinoConfig(
        backbone_config=ConvNextV2Config(  # strides 8, 16 and 32
            patch_size=4, hidden_sizes=[32, 64, 128, 192], depths=[1, 1, 2, 1], out_indices=[2, 3, 4]
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

    Text features are the random embedding of each token without its context, and stay so (:func:`freeze_text`):
    they are almost orthogonal, so that words cannot become alike, and a word that no scene has used is like any other.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and not name.endswith(("sampling_offsets", "attention_weights")):
            nn.init.xavier_uniform_(module.weight)
    detector = model.model
    nn.init.normal_(detector.query_position_embeddings.weight, std=0.1)  # queries differ by their boxes
    for head in (*model.bbox_embed, detector.encoder_output_bbox_embed):
        nn.init.zeros_(head.layers[-1].weight)
    bert = detector.text_backbone
    for table in (bert.embeddings.position_embeddings, bert.embeddings.token_type_embeddings):
        nn.init.zeros_(table.weight)
    for layer in bert.encoder.layer:
        nn.init.zeros_(layer.attention.output.dense.weight)
        nn.init.zeros_(layer.output.dense.weight)
    nn.init.orthogonal_(detector.text_projection.weight)
    for layer in detector.encoder.layers:
        nn.init.zeros_(layer.text_enhancer_layer.self_attn.out_proj.weight)
        nn.init.zeros_(layer.text_enhancer_layer.fc2.weight)
        nn.init.zeros_(layer.fusion_layer.text_param)
        nn.init.constant_(layer.fusion_layer.vision_param, 0.1)  # image features see the text from the start
    # Logits are products of image and text features. They start as about -4: most queries show nothing.
    sign = torch.randn(model.config.d_model).sign() / math.sqrt(model.config.d_model)
    words = detector.encoder.layers[-1].text_enhancer_layer.layer_norm_after
    nn.init.constant_(words.weight, 0.3)
    words.bias.copy_(2 * sign)
    for norm in (detector.enc_output_norm, detector.decoder.layer_norm):
        nn.init.constant_(norm.weight, 0.2)
        norm.bias.copy_(-2 * sign)


def freeze_text(model: GroundingDinoForObjectDetection) -> None:
    """Freeze what makes the text features."""
    detector = model.model
    detector.text_backbone.requires_grad_(False)
    detector.text_projection.requires_grad_(False)
    for layer in detector.encoder.layers:
        layer.text_enhancer_layer.requires_grad_(False)
        layer.fusion_layer.text_param.requires_grad_(False)
