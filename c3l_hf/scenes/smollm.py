"""A generator with a pretrained language model: SmolLM2 in a real LLaVA, which sees with the scenes world's tower.

`smollm_run.py` trains it. Its language model has read more than the scenes, and so has its prior.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from c3l_hf.scenes import GENERATOR

__all__ = ["CHAT_TEMPLATE", "build_smollm"]

IMAGE_TOKEN = "<image>"
_PAD = "<|endoftext|>"  # not the token that ends a turn, which must be learned

# SmolLM2's own form of a turn, without its system message. The image stands before the text.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}
{%- if message['content'] is string -%}{{- message['content'] -}}
{%- else -%}
{%- for item in message['content'] if item['type'] == 'text' -%}{{- item['text'] -}}{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>' -}}
{%- endgeneration -%}
{{- '\n' -}}
{%- else -%}
{%- if message['content'] is string -%}{{- message['content'] -}}
{%- else -%}
{%- for item in message['content'] if item['type'] == 'image' -%}{{- '<image>' -}}{%- endfor -%}
{%- for item in message['content'] if item['type'] == 'text' -%}{{- item['text'] -}}{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""


def build_smollm(language_model: str, seed: int = 0) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The model before its training, in float32, and its processor.

    The language model keeps its weights; the tower and what the pictures have to be like are those of the shipped
    generator; the projector between them is new.

    Args:
        language_model: A GGUF file (the package `gguf` has to be installed), a folder, or a Hub id. It has to be a
            model whose turns are SmolLM2's: `<|im_start|>` and `<|im_end|>`.
        seed: Seed of the projector.

    Raises:
        ValueError: If the tokenizer has not the tokens of these turns.
    """
    tokenizer, text_model = _language_model(language_model)
    missing = {"<|im_start|>", "<|im_end|>", _PAD} - set(tokenizer.get_vocab())
    if missing:
        raise ValueError(f"the tokenizer of {language_model} has no {', '.join(sorted(missing))}: give a SmolLM2")
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "pad_token": _PAD})
    tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    seeing = LlavaForConditionalGeneration.from_pretrained(GENERATOR, dtype=torch.float32, use_safetensors=True)
    shipped = LlavaProcessor.from_pretrained(GENERATOR)
    processor = LlavaProcessor(
        image_processor=shipped.image_processor,
        tokenizer=tokenizer,
        patch_size=shipped.patch_size,
        vision_feature_select_strategy=shipped.vision_feature_select_strategy,
        num_additional_image_tokens=shipped.num_additional_image_tokens,
        image_token=IMAGE_TOKEN,
        chat_template=CHAT_TEMPLATE,
    )
    torch.manual_seed(seed)
    text_model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    text_model.config.update({"bos_token_id": None, "eos_token_id": end, "pad_token_id": pad})
    config = LlavaConfig(
        vision_config=seeing.config.vision_config,
        text_config=text_model.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=seeing.config.image_seq_length,
        vision_feature_layer=seeing.config.vision_feature_layer,
        vision_feature_select_strategy=seeing.config.vision_feature_select_strategy,
        tie_word_embeddings=text_model.config.tie_word_embeddings,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(seeing.model.vision_tower.state_dict())
    model.model.language_model.load_state_dict(text_model.model.state_dict())
    if not config.tie_word_embeddings:
        model.lm_head.load_state_dict(text_model.lm_head.state_dict())
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad)
    return model.eval(), processor


def _language_model(source: str) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    path = Path(source)
    options: dict[str, Any] = {"use_safetensors": True}
    if path.suffix == ".gguf":
        source, options = str(path.parent), {"gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=options.get("gguf_file"))
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **options)
    # Its weights are plain ones now. A model that says otherwise is neither saved nor loaded.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return tokenizer, model
