"""Column names and types of the project's datasets.

A row is one instruction/answer pair about its images, in TRL's vision conventions: `images` beside `prompt` and
`completion` messages whose contents are plain strings. The names stand here and nowhere else.
"""

from typing import Literal

from datasets import Features, Image, List, Value

__all__ = [
    "CHOSEN_TOKENS",
    "CHOSEN_TOKENS_FEATURES",
    "CLUSTER",
    "CLUSTER_SIMILARITY",
    "EMBEDDING",
    "EMBEDDING_STATUS",
    "GENERATION_STATUS",
    "LANGUAGE",
    "PAIR_FEATURES",
    "PAIR_TABLE_FEATURES",
    "PAPERS_FORM",
    "PSEUDO_LABEL_FEATURES",
    "SCORES",
    "SCORE_COLUMNS",
    "SCORE_FEATURES",
    "STATUS",
    "STATUS_OK",
    "TOKEN_COLUMNS",
    "TURNS",
    "Ranking",
    "number_id",
]

SCORES = ("answer_kl", "token_kl", "pmi", "ppl_ratio", "pmi_k", "logprob", "logprob_blind")
# One of them, as options have it.
# The score in the form that the paper describes.
PAPERS_FORM: Literal["answer_kl"] = "answer_kl"
Ranking = Literal[SCORES]  # type: ignore[valid-type]
TOKEN_COLUMNS = ("answer_tokens", "token_kl_per_token", "logprob_per_token", "logprob_blind_per_token")
STATUS, STATUS_OK = "i2c_status", "ok"
GENERATION_STATUS = "generation_status"  # "ok", or why generation has made no pair
TURNS = "turns"
LANGUAGE = "language"
# A vector of the pair, and why it has none; the cluster of that vector, and its cosine with the cluster's centre.
EMBEDDING, EMBEDDING_STATUS = "embedding", "embedding_status"
CLUSTER, CLUSTER_SIMILARITY = "cluster", "cluster_similarity"
SCORE_COLUMNS = ("i2c", *SCORES, *TOKEN_COLUMNS, TURNS, STATUS)

_MESSAGES = List({"role": Value("string"), "content": Value("string")})

# Types of the score columns: give them to `map` together with the dataset's own, `features={**ds.features,
# **SCORE_FEATURES}`, so that a shard in which no row has a score gets the same types as the others.
SCORE_FEATURES = Features(
    {
        **{name: Value("float32") for name in ("i2c", *SCORES)},
        "answer_tokens": List(Value("string")),
        **{name: List(Value("float32")) for name in TOKEN_COLUMNS[1:]},
        # One entry for each assistant turn, with a status of its own. The columns above are over the tokens of all
        # turns that have scores; `tokens` says how many are whose (0 of a turn without).
        TURNS: List(
            {
                **{name: Value("float32") for name in ("i2c", *SCORES)},
                "tokens": Value("int32"),
                "status": Value("string"),
            }
        ),
        STATUS: Value("string"),
    }
)

# One generated pair; `prompt` and `completion` are null where `generation_status` is not "ok". Of a conversation the
# first question is the prompt; the completion has the answers, and the further questions between them.
PAIR_FEATURES = Features(
    {
        "images": List(Image()),
        "image_id": Value("string"),
        "pair_id": Value("string"),
        "template": Value("string"),
        "type": Value("string"),
        LANGUAGE: Value("string"),  # that the template asks for; null if it asks for none
        "prompt": _MESSAGES,
        "completion": _MESSAGES,
        "raw": Value("string"),
        "generation_status": Value("string"),
        # What the generator is asked for one such pair, and how its reply is written (`prompts.reply_forms`): a
        # pseudo-label is made of these.
        "generation_prompt": _MESSAGES,
        "reply_form": Value("string"),
        # Tokens as the writer of the text counted them. Of several rows from one request the first has those that they
        # share, so that sums are right. A model in this process has no served_model.
        "usage": {
            "served_model": Value("string"),
            "prompt_tokens": Value("int64"),
            "completion_tokens": Value("int64"),
        },
        # 0, or the number of the attempt for which the image was asked about again (`generation.retries`).
        "attempt": Value("int32"),
    }
)

# The same without the pixels: `image_row` is the image's row in the dataset of images.
PAIR_TABLE_FEATURES = Features(
    {"image_row": Value("int64"), **{name: value for name, value in PAIR_FEATURES.items() if name != "images"}}
)

# One image with its best pair and some others, for the contrastive training of the generator.
PSEUDO_LABEL_FEATURES = Features(
    {
        "images": List(Image()),
        "image_id": Value("string"),
        "prompt": _MESSAGES,
        "chosen": _MESSAGES,
        "rejected": List(_MESSAGES),
        "chosen_score": Value("float32"),
        "rejected_scores": List(Value("float32")),
        "weight": Value("float32"),
        "type": Value("string"),
        "template": Value("string"),
    }
)

# Beside a pseudo-label, where its pair has the scores of its tokens: the chosen reply in pieces, and of each what the
# image adds to its log-probability (null of what is no part of an answer).
CHOSEN_TOKENS = "chosen_tokens"
CHOSEN_TOKENS_FEATURES = Features({CHOSEN_TOKENS: List({"text": Value("string"), "gain": Value("float32")})})


def number_id(image: int) -> str:
    """The `image_id` of an image that has none: its number."""
    return f"{image:06d}"
