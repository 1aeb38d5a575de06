"""Further families of tiny random vision-language models with their real processor classes: see `tiny_models.py`.

Their templates have the structure of those published with the models.
"""

import json
from unittest import mock

import torch
from tiny_models import (
    IMAGE_SIZE,
    PATCH_SIZE,
    _llama_config,
    _tokenizer,
    tiny_gemma3,
    tiny_llava,
    tiny_llava_next,
)
from tokenizers import Tokenizer
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVisionConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMProcessor,
    processing_utils,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig, Qwen2_5_VLVisionConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig, Qwen3VLVisionConfig
from transformers.models.smolvlm import processing_smolvlm
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.video_processing_utils import VideoProcessorMixin

# Images before all text; no newline after the end of a turn. In the published template a turn begins with
# "assistant \n", but the generation prompt ends with "assistant\n": LLAVA_ONEVISION_PUBLISHED.
LLAVA_ONEVISION_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] + ' ' }}"
    "{% for c in m['content'] if c['type'] == 'image' %}<image>{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ '\n' + c['text'] }}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant \n' }}{% endif %}"
)
LLAVA_ONEVISION_PUBLISHED = LLAVA_ONEVISION_TEMPLATE.replace("assistant \n", "assistant\n")

QWEN3_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] + '\n' }}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Up to Qwen2.5-VL with a system prompt, if there is none.
QWEN2_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}" + QWEN3_TEMPLATE
)
# A newline after the image, which must not be left in the blind row.
INTERNVL_TEMPLATE = QWEN3_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "{{ '<IMG_CONTEXT>\n' }}")
# A space after the colon, but not before an image.
IDEFICS_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] | capitalize }}"
    "{% if m['content'][0]['type'] == 'image' %}:{% else %}{{ ': ' }}{% endif %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{{ '<end_of_utterance>\n' }}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def _with_video_part(processor_class: type[ProcessorMixin], **parts) -> ProcessorMixin:
    """A processor that demands a video processor, without torchvision, which all real ones need.

    The base class of video processors does without; but transformers then leaves it out of its namespace, where
    processors look it up to check what they are given. Images never go through it.
    """
    namespace = processing_utils.transformers_module
    with mock.patch.object(namespace, "VideoProcessorMixin", VideoProcessorMixin, create=True):
        return processor_class(video_processor=VideoProcessorMixin(num_frames=8, fps=1), **parts)


def _qwen_tokenizer(*image_tokens: str, **named: str) -> PreTrainedTokenizerFast:
    return _tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *image_tokens],
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens=named,
    )


def _text_settings(tokenizer: PreTrainedTokenizerFast) -> dict:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.2,  # wide, so that predictions are far from uniform and images matter
    }


_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH_SIZE,
}


def tiny_llava_onevision(seed: int = 0) -> tuple[LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor]:
    """LLaVA-OneVision: tiles for a row's only image, none where there are several; many tiles are shrunk."""
    tokenizer = _qwen_tokenizer("<image>", "<video>", image_token="<image>", video_token="<video>")
    pinpoints = [[32, 32], [32, 64], [64, 32], [64, 64]]
    processor = _with_video_part(
        LlavaOnevisionProcessor,
        image_processor=LlavaOnevisionImageProcessorPil(
            size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, image_grid_pinpoints=pinpoints
        ),
        tokenizer=tokenizer,
        num_image_tokens=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_2",
        chat_template=LLAVA_ONEVISION_TEMPLATE,
    )
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**_VISION, vision_use_head=False),
        text_config=Qwen2Config(**_text_settings(tokenizer), tie_word_embeddings=True),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
        vision_aspect_ratio="anyres_max_2",
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    return LlavaOnevisionForConditionalGeneration(config).eval(), processor


_QWEN_IMAGE_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def _qwen_parts() -> dict:
    """As many image tokens as 16-pixel squares in the image; pixels of all images in one list of patches."""
    return {
        "image_processor": Qwen2VLImageProcessorPil(
            patch_size=PATCH_SIZE, merge_size=2, size={"shortest_edge": 32 * 32, "longest_edge": 64 * 64}
        ),
        "tokenizer": _qwen_tokenizer(*_QWEN_IMAGE_TOKENS),
    }


def _qwen_settings(tokenizer: PreTrainedTokenizerFast) -> tuple[dict, dict, dict]:
    """Settings of the text, vision and whole configs that Qwen2.5-VL and Qwen3-VL have in common."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "depth": 2,
        "num_heads": 4,
        "patch_size": PATCH_SIZE,
        "out_hidden_size": 32,
        "initializer_range": 0.2,
    }
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    ids = dict(zip(names, tokenizer.convert_tokens_to_ids(list(_QWEN_IMAGE_TOKENS))))
    return {**_text_settings(tokenizer), "rope_parameters": rope}, vision, ids


def tiny_qwen2_5_vl(seed: int = 0) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """Qwen2.5-VL: positions of three parts (M-RoPE), windows in the vision tower, a default system prompt."""
    processor = _with_video_part(Qwen2_5_VLProcessor, **_qwen_parts(), chat_template=QWEN2_TEMPLATE)
    text, vision, ids = _qwen_settings(processor.tokenizer)
    config = Qwen2_5_VLConfig(
        text_config=Qwen2_5_VLTextConfig(**text),
        vision_config=Qwen2_5_VLVisionConfig(**vision, window_size=32, fullatt_block_indexes=[1]),
        tie_word_embeddings=True,
        **ids,
    )
    torch.manual_seed(seed)
    return Qwen2_5_VLForConditionalGeneration(config).eval(), processor


def tiny_qwen3_vl(seed: int = 0) -> tuple[Qwen3VLForConditionalGeneration, Qwen3VLProcessor]:
    """Qwen3-VL: interleaved M-RoPE, image features added in the first text layer too (DeepStack), no system prompt."""
    processor = _with_video_part(Qwen3VLProcessor, **_qwen_parts(), chat_template=QWEN3_TEMPLATE)
    text, vision, ids = _qwen_settings(processor.tokenizer)
    config = Qwen3VLConfig(
        text_config=Qwen3VLTextConfig(**text, head_dim=8),
        vision_config=Qwen3VLVisionConfig(**vision, num_position_embeddings=16, deepstack_visual_indexes=[0]),
        tie_word_embeddings=True,
        **ids,
    )
    torch.manual_seed(seed)
    return Qwen3VLForConditionalGeneration(config).eval(), processor


_IDEFICS_NAMES = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
}


def _idefics_tokenizer(pad_token: str, bos_token: str) -> PreTrainedTokenizerFast:
    tiles = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    return _tokenizer(
        [pad_token, bos_token, "<end_of_utterance>", *_IDEFICS_NAMES.values(), *tiles],
        pad_token=pad_token,
        bos_token=bos_token,
        eos_token="<end_of_utterance>",
        extra_special_tokens=_IDEFICS_NAMES,
    )


_IDEFICS_IMAGES = {"size": {"longest_edge": 2 * IMAGE_SIZE}, "max_image_size": {"longest_edge": IMAGE_SIZE}}
_IDEFICS_SEQ_LEN = (IMAGE_SIZE // PATCH_SIZE // 2) ** 2  # per tile; 2 is the configs' scale_factor


def tiny_idefics3(seed: int = 0) -> tuple[Idefics3ForConditionalGeneration, Idefics3Processor]:
    """Idefics3, and the first SmolVLM: tiles, their places as tokens; rows with fewer tiles get empty images."""
    tokenizer = _idefics_tokenizer("<|end_of_text|>", "<|begin_of_text|>")
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessorPil(**_IDEFICS_IMAGES),
        tokenizer=tokenizer,
        image_seq_len=_IDEFICS_SEQ_LEN,
        chat_template=IDEFICS_TEMPLATE,
    )
    config = Idefics3Config(
        text_config=_llama_config(len(tokenizer)),
        vision_config=Idefics3VisionConfig(**_VISION, initializer_range=0.2),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    return Idefics3ForConditionalGeneration(config).eval(), processor


def tiny_smolvlm(seed: int = 0) -> tuple[SmolVLMForConditionalGeneration, SmolVLMProcessor]:
    """SmolVLM (2): as `tiny_idefics3`, in classes of its own; `<|im_start|>` only at the very beginning."""
    tokenizer = _idefics_tokenizer("<|im_end|>", "<|im_start|>")
    # The processor refuses to be made without num2words, which spells the number of a video's frames.
    with mock.patch.object(processing_smolvlm, "num2words", str):
        processor = _with_video_part(
            SmolVLMProcessor,
            image_processor=SmolVLMImageProcessorPil(**_IDEFICS_IMAGES),
            tokenizer=tokenizer,
            image_seq_len=_IDEFICS_SEQ_LEN,
            chat_template=IDEFICS_TEMPLATE,
        )
    config = SmolVLMConfig(
        text_config=_llama_config(len(tokenizer)),
        vision_config=SmolVLMVisionConfig(**_VISION, initializer_range=0.2),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    return SmolVLMForConditionalGeneration(config).eval(), processor


def tiny_internvl(seed: int = 0) -> tuple[InternVLForConditionalGeneration, InternVLProcessor]:
    """InternVL: tiles one after the other and a small whole image, `<img>` and `</img>` around them."""
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = _qwen_tokenizer(*names.values(), **names)
    image_tokens = (IMAGE_SIZE // PATCH_SIZE // 2) ** 2
    processor = _with_video_part(
        InternVLProcessor,
        image_processor=GotOcr2ImageProcessorPil(
            size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, crop_to_patches=True, max_patches=4
        ),
        tokenizer=tokenizer,
        image_seq_length=image_tokens,
        chat_template=INTERNVL_TEMPLATE,
    )
    config = InternVLConfig(
        text_config=Qwen2Config(**_text_settings(tokenizer), tie_word_embeddings=True),
        # the scale of the layers as after training, not at its beginning
        vision_config=InternVLVisionConfig(**_VISION, initializer_range=0.2, layer_scale_init_value=1.0),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=image_tokens,
        downsample_ratio=0.5,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    return InternVLForConditionalGeneration(config).eval(), processor


# Every family that there is a tiny model of.
ALL_FAMILIES = {
    build.__name__.removeprefix("tiny_"): build
    for build in (
        tiny_llava,
        tiny_llava_next,
        tiny_gemma3,
        tiny_llava_onevision,
        tiny_qwen2_5_vl,
        tiny_qwen3_vl,
        tiny_idefics3,
        tiny_smolvlm,
        tiny_internvl,
    )
}


def as_letters(processor: ProcessorMixin, text: str) -> list[int]:
    """The ids of a text by the same tokenizer without any added token."""
    state = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    plain = Tokenizer.from_str(json.dumps({**state, "added_tokens": [], "post_processor": None}))
    return plain.encode(text, add_special_tokens=False).ids
