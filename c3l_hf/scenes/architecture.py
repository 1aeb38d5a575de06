"""The small LLaVA of the scenes world, untrained: `pretraining_run.py` trains it."""

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from c3l_hf.scenes.questions import NUMBERS, PLURAL, PLURAL_GROUP, ask
from c3l_hf.scenes.templates import QUESTION_TYPES, TEMPLATES, format_pair
from c3l_hf.scenes.world import BACKGROUNDS, CATEGORIES, SIZE, sample_scenes

__all__ = ["CHAT_TEMPLATE", "build_model", "build_processor"]

PATCH = 8
IMAGE_TOKEN = "<image>"

# The image stands before the text. `generation` marks the answer (assistant masks of the tokenizer).
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{{- 'ASSISTANT:' -}}
{%- generation -%}
{%- if message['content'] is string -%}{{- ' ' + message['content'] -}}
{%- else -%}
{%- for item in message['content'] if item['type'] == 'text' -%}{{- ' ' + item['text'] -}}{%- endfor -%}
{%- endif -%}
{{- eos_token -}}
{%- endgeneration -%}
{%- else -%}
{{- 'USER:' -}}
{%- if message['content'] is string -%}{{- ' ' + message['content'] -}}
{%- else -%}
{%- for item in message['content'] if item['type'] == 'image' -%}{{- '<image>' -}}{%- endfor -%}
{%- for item in message['content'] if item['type'] == 'text' -%}{{- ' ' + item['text'] -}}{%- endfor -%}
{%- endif -%}
{{- ' ' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""


def _corpus() -> list[str]:
    """Text in which every word of the world is frequent enough to become one token."""
    words = [*CATEGORIES, *PLURAL.values(), *PLURAL_GROUP, *PLURAL_GROUP.values(), *BACKGROUNDS, *NUMBERS]
    texts = [f" {word} {word}." for word in words for _ in range(200)]
    texts += [
        f"USER: {template.user} ASSISTANT: {format_pair('Is', 'The')}"
        for template in TEMPLATES.templates
        for _ in range(30)
    ]
    rng = np.random.default_rng(0)
    for scene in sample_scenes(300, 0, "train", shifted=True):
        for type in QUESTION_TYPES:
            pair = ask(scene, type, rng)
            texts.extend(f" {text}" for text in pair or ())
    return texts


def build_processor() -> LlavaProcessor:
    """The processor: byte-level BPE in which every object's name is one token, 64 × 64 pictures, the chat template.

    Byte-level, so that any text can be read, whatever a user asks.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", IMAGE_TOKEN]
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        min_frequency=10,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(_corpus(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=[IMAGE_TOKEN],
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    side = {"height": SIZE, "width": SIZE}
    image_processor = CLIPImageProcessorPil(
        size=side,
        crop_size=side,
        do_center_crop=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE_TOKEN,
        chat_template=CHAT_TEMPLATE,
    )


def _sin_cos_positions(side: int, dim: int) -> torch.Tensor:
    """2-D sin-cos position embeddings of a side × side grid, (side², dim): without them "where" is not learned."""
    frequency = 1.0 / 100 ** (torch.arange(dim // 4) / (dim // 4))
    angles = torch.arange(side)[:, None] * frequency
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = axis[:, None].expand(-1, side, -1), axis[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=-1).reshape(side * side, dim)


def build_model(processor: LlavaProcessor, seed: int = 0) -> LlavaForConditionalGeneration:
    """The untrained model, about 5 million float32 parameters: a CLIP tower of 64 patches and a Llama."""
    torch.manual_seed(seed)
    tokenizer = processor.tokenizer
    vision = CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=192,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(SIZE // PATCH) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    positions = model.model.vision_tower.embeddings.position_embedding.weight.data
    positions[1:] = 0.1 * _sin_cos_positions(SIZE // PATCH, positions.shape[1])
    return model
