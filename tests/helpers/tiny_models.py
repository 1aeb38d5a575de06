"""Tiny random vision-language models with their real processor classes, built from configs in no time."""

import copy
from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Gemma3TextConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

IMAGE_SIZE, PATCH_SIZE = 32, 8

# Image first, an end-of-turn token, and a newline after it that must never be scored.
LLAVA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}USER:{% elif m['role'] == 'system' %}SYSTEM:{% else %}ASSISTANT:{% endif %}"
    "{% for c in m['content'] if c['type'] == 'image' %} <image>\n{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}"
    "{% if m['role'] == 'assistant' %}{% generation %} {{ c['text'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %} {{ c['text'] }}{% endif %}{% endfor %}{{ '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)

# As Gemma's: no <eos> after a turn but a token of its own, which the tokenizer does not know as its end token.
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<start_of_image>{% else %}{{ c['text'] | trim }}{% endif %}"
    "{% endfor %}<end_of_turn>{{ '\n' }}{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)

_CORPUS = (
    "Is there a dog in the picture? Yes, there is. No, there is not. How many cats are there? one two three four five. "
    "What colour is the background? red green blue yellow orange purple white black. Where is the car? It is "
    "at the top left. bottom right. "
    "Question: Which animals can be seen? Answer: a dog, a cat and a horse. Describe this picture. "
    "The picture shows an apple next to a ball on a table. Ask a question about this picture, and answer it. "
)


def _tokenizer(special_tokens: list[str], **kwargs) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 400 tokens: every text can be written in it, also what the corpus does not have."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_CORPUS], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **kwargs)


def _llava_tokenizer() -> PreTrainedTokenizerFast:
    """Each model's own: what a test adds to it would be in all others, and the sizes of their vocabularies too."""
    return copy.deepcopy(_trained_llava_tokenizer())


@cache
def _trained_llava_tokenizer() -> PreTrainedTokenizerFast:
    return _tokenizer(
        ["<pad>", "<s>", "</s>", "<image>"],
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )


def _llama_config(vocab_size: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.2,  # wide, so that predictions are far from uniform and images matter
    )


def _clip_config() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=32,
        initializer_range=0.2,
    )


def tiny_llava(
    seed: int = 0, vocabulary: int | None = None, layers: int = 2
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """LLaVA-1.5: 32-pixel images, 16 image tokens, a vocabulary of 400, weights from `seed`, float32, eval mode.

    With a `vocabulary` its logits are as many as those of a real language model; the tokenizer knows the first 400.
    """
    tokenizer = _llava_tokenizer()
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=side, crop_size=side),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    text_config = _llama_config(vocabulary or len(tokenizer))
    text_config.num_hidden_layers = layers
    config = LlavaConfig(
        vision_config=_clip_config(),
        text_config=text_config,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    return LlavaForConditionalGeneration(config).eval(), processor


def tiny_llava_next(seed: int = 0) -> tuple[LlavaNextForConditionalGeneration, LlavaNextProcessor]:
    """LLaVA-NeXT: as `tiny_llava`, with tiles, so that images have different numbers of tokens."""
    tokenizer = _llava_tokenizer()
    pinpoints = [[32, 64], [64, 32], [64, 64]]
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": IMAGE_SIZE}, crop_size=side, image_grid_pinpoints=pinpoints
        ),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    config = LlavaNextConfig(
        vision_config=_clip_config(),
        text_config=_llama_config(len(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    return LlavaNextForConditionalGeneration(config).eval(), processor


def tiny_gemma3(seed: int = 0) -> tuple[Gemma3ForConditionalGeneration, Gemma3Processor]:
    """Gemma 3: two-way attention within images, a sliding window, capped final logits, `<end_of_turn>` as its end."""
    names = [
        "<pad>",
        "<eos>",
        "<bos>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<start_of_image>",
        "<end_of_image>",
        "<image_soft_token>",
    ]
    tokenizer = _tokenizer(
        names,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens={"image_token": names[7], "boi_token": names[5], "eoi_token": names[6]},
    )
    image_tokens = 4
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}),
        tokenizer=tokenizer,
        image_seq_length=image_tokens,
        chat_template=GEMMA_TEMPLATE,
    )
    text_config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
        final_logit_softcapping=5.0,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
        initializer_range=0.2,
    )
    vision_config = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
    )
    config = Gemma3Config(
        text_config=text_config,
        vision_config=vision_config,
        mm_tokens_per_image=image_tokens,
        image_token_id=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_id=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_id=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        eos_token_id=[1, 4],
        initializer_range=0.2,
    )
    torch.manual_seed(seed)
    model = Gemma3ForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = [1, 4]  # as in the released checkpoints
    # transformers begins with zeros: every image would be the same to the model
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.2)
    return model, processor
