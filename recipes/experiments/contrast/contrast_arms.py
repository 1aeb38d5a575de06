"""The arms of `contrast_experiment.py`: which pairs each chooses and rejects, and how it is trained on them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from datasets import Dataset, Features, List, Value, concatenate_datasets
from transformers import PreTrainedModel, ProcessorMixin

from c3l_hf.data.schema import PAIR_FEATURES
from c3l_hf.generation.pairs import PairGenerationConfig, generate_pairs
from c3l_hf.generation.sampling import TextSampler
from c3l_hf.models.encoding import encode_prompt
from c3l_hf.models.loading import Source, load
from c3l_hf.prompts.parsing import parse_pair
from c3l_hf.scenes import GENERATOR, Scene
from c3l_hf.scenes.evaluation import MAX_NEW_TOKENS, judge_pairs, pair_texts
from c3l_hf.scoring.scorer import I2CScorer
from c3l_hf.selection.pseudo_labels import select_pseudo_labels

# Added to the seed where a trained generator writes: another draw than the first round's, as in `c3l.py`.
SECOND_DRAW = 1_000_003
# What `select_pseudo_labels` may choose between: pairs of one type, pairs of several types, answers to one question.
POOLS = {
    "pairs": {"pairs_per_image": 5, "types_per_image": 1},
    "two_types": {"pairs_per_image": 6, "types_per_image": 2},
    "answers": {"answers_per_question": 5, "questions_per_image": 2},
}


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        control: The arm it has to beat: the same rows and steps without what this arm is about. "" for none.
        trainer: "c3l", "dpo" (TRL's, with the worst pair of each row as the rejected one), or "" for no training.
        ranking: The score whose best pair is chosen; "random"; or "true": a true pair is chosen and only false ones are
            rejected, by the scenes' checker. Images without both have no row then, so that the others come up oftener.
        pool: One of `POOLS`.
        within: As in `select_pseudo_labels`.
        max_rejected: As in `select_pseudo_labels`.
        after: The arm whose trained model is trained further: a second round. "" for the generator.
        writer: The arm whose trained model writes the candidates. "" for the generator. The scores are the
            generator's in any case.
        options: Options of the trainer that differ from those of the other arms.
    """

    control: str = "nll"
    trainer: str = "c3l"
    ranking: str = "pmi"
    pool: str = "pairs"
    within: str = "type"
    max_rejected: int = 4
    after: str = ""
    writer: str = ""
    options: Mapping[str, float | str | bool] = field(default_factory=dict)


NLL = {"contrastive_weight": 0.0}
# Which similarity the contrast is of, with the settings of either.
HIDDEN = {"similarity": "hidden", "temperature": 0.1}
LIKELIHOOD = {"similarity": "likelihood", "temperature": 0.3}
_RANKINGS = ("answer_kl", "token_kl", "logprob")

MAIN = {
    "before": Arm(control="", trainer=""),
    "random_nll": Arm(control="before", ranking="random", options=NLL),
    "nll": Arm(control="random_nll", options=NLL),
    "nll_tokens": Arm(options={**NLL, "token_weights": "cal"}),
    "c3l": Arm(options=HIDDEN),
    "likelihood": Arm(options=LIKELIHOOD),
    "contrastive": Arm(options={**HIDDEN, "nll_weight": 0.0}),
    "dpo": Arm(trainer="dpo"),
    "truth_nll": Arm(control="nll", ranking="true", options=NLL),
    "truth_c3l": Arm(control="truth_nll", ranking="true", options=HIDDEN),
    "truth_likelihood": Arm(control="truth_nll", ranking="true", options=LIKELIHOOD),
}

# A second round: the trained generator is trained for as many steps again, on what it now writes about the same scenes;
# its control has the same steps on the rows of the first round.
SECOND = {
    "nll_again": Arm(control="nll", after="nll", options=NLL),
    "nll_second": Arm(control="nll_again", after="nll", writer="nll", options=NLL),
    "c3l_again": Arm(control="c3l", after="c3l", options=HIDDEN),
    "c3l_second": Arm(control="c3l_again", after="c3l", writer="c3l", options=HIDDEN),
    "likelihood_again": Arm(control="likelihood", after="likelihood", options=LIKELIHOOD),
    "likelihood_second": Arm(control="likelihood_again", after="likelihood", writer="likelihood", options=LIKELIHOOD),
}

SETTINGS = {
    "random_c3l": Arm(control="random_nll", ranking="random", options=HIDDEN),
    "random_likelihood": Arm(control="random_nll", ranking="random", options=LIKELIHOOD),
    "truth_contrastive": Arm(control="truth_nll", ranking="true", options={**HIDDEN, "nll_weight": 0.0}),
    "truth_dpo": Arm(control="truth_nll", trainer="dpo", ranking="true"),
    # One option of the loss at a time
    **{
        f"{name}_{option}_{value}": Arm(options={**form, of: value})
        for name, form in (("c3l", HIDDEN), ("likelihood", LIKELIHOOD))
        for option, of, values in (
            ("tau", "temperature", (0.03, 0.1, 0.3, 1.0, 3.0)),
            ("lambda", "contrastive_weight", (0.1, 0.3, 3.0)),
        )
        for value in values
        if form.get(of) != value
    },
    **{
        f"{name}_negatives_{count}": Arm(max_rejected=count, options=form)
        for name, form in (("c3l", HIDDEN), ("likelihood", LIKELIHOOD))
        for count in (1, 2)
    },
    "likelihood_alone": Arm(options={**LIKELIHOOD, "nll_weight": 0.0}),
    "c3l_layer_2": Arm(options={**HIDDEN, "hidden_layer": 2}),
    "c3l_sigmoid": Arm(options={**HIDDEN, "contrastive_loss": "sigmoid"}),
    "c3l_in_batch": Arm(options={**HIDDEN, "in_batch_negatives": True}),
    "nll_weighted": Arm(options={**NLL, "weight_column": "weight"}),
    **{f"dpo_beta_{beta}": Arm(trainer="dpo", options={"beta": beta}) for beta in (0.03, 0.5)},
    # Options with controls of their own
    **{f"nll_lr_{lr}": Arm(control="before", options={**NLL, "learning_rate": lr}) for lr in (3e-5, 3e-4)},
    **{f"c3l_lr_{lr}": Arm(control=f"nll_lr_{lr}", options={**HIDDEN, "learning_rate": lr}) for lr in (3e-5, 3e-4)},
    "dpo_lr_1e-05": Arm(control="before", trainer="dpo", options={"learning_rate": 1e-5}),
    # Which score ranks
    **{f"nll_{score}": Arm(control="random_nll", ranking=score, options=NLL) for score in _RANKINGS},
    **{f"c3l_{score}": Arm(control=f"nll_{score}", ranking=score, options=HIDDEN) for score in _RANKINGS},
    "likelihood_logprob": Arm(control="nll_logprob", ranking="logprob", options=LIKELIHOOD),
    "dpo_logprob": Arm(control="nll_logprob", trainer="dpo", ranking="logprob"),
    # Six pairs of two types: ranked within a type, or all together
    "nll_two_types": Arm(control="before", pool="two_types", options=NLL),
    "c3l_two_types": Arm(control="nll_two_types", pool="two_types", options=HIDDEN),
    "nll_two_types_all": Arm(control="before", pool="two_types", within="all", options=NLL),
    "c3l_two_types_all": Arm(control="nll_two_types_all", pool="two_types", within="all", options=HIDDEN),
    # Several answers to one question
    "random_nll_answers": Arm(control="before", pool="answers", ranking="random", options=NLL),
    **{
        f"{kind}_answers_{name}": Arm(control, trainer, ranking, "answers", options=options)
        for name, ranking in (("pmi", "pmi"), ("logprob", "logprob"), ("truth", "true"))
        for kind, control, trainer, options in (
            ("nll", "random_nll_answers", "c3l", NLL),
            ("c3l", f"nll_answers_{name}", "c3l", HIDDEN),
            ("likelihood", f"nll_answers_{name}", "c3l", LIKELIHOOD),
            ("contrastive", f"nll_answers_{name}", "c3l", {**HIDDEN, "nll_weight": 0.0}),
            ("dpo", f"nll_answers_{name}", "dpo", {}),
        )
    },
}
ARMS = MAIN | SECOND | SETTINGS


def generator(folder: str = GENERATOR):
    """A fresh copy of a small generator, by default the shipped one, in float32, and its processor."""
    return load(Source(folder, dtype="float32"))


def scenes_by_id(rows: Dataset) -> dict[str, Scene]:
    return {row["image_id"]: Scene.from_row(row) for row in rows.remove_columns("images")}


def make_pool(
    name: str,
    rows: Dataset,
    seed: int,
    pairs: Dataset | None = None,
    writer: tuple[PreTrainedModel, ProcessorMixin] | None = None,
    folder: str = GENERATOR,
) -> Dataset:
    """Scored candidates about the scenes in `rows`, with the further rankings `random` and `true` (1 or 0).

    Args:
        name: One of `POOLS`.
        rows: Scenes, from `load_scenes`.
        seed: Seed of all that is sampled.
        pairs: For the pool "answers": the pool "pairs", from which the questions are taken.
        writer: Trained model and processor that write the candidates, with random numbers of their own; by default the
            generator. It is the generator that scores.
        folder: The generator.
    """
    model, processor = generator(folder)
    draw = seed if writer is None else seed + SECOND_DRAW
    if name == "answers":
        candidates = sample_answers(pairs, *(writer or (model, processor)), draw)
    else:
        config = PairGenerationConfig("scenes", **POOLS[name], max_new_tokens=MAX_NEW_TOKENS, seed=draw, batch_size=250)
        images = rows.select_columns(["images", "image_id"])
        candidates = generate_pairs(images, *(writer or (model, processor)), config)
    scenes = scenes_by_id(rows)
    of_rows = [scenes[scene_id(image_id)] for image_id in candidates["image_id"]]
    _, true = judge_pairs(candidates["type"][:], pair_texts(candidates), of_rows)
    scorer = I2CScorer(model, processor)
    features = Features({**candidates.features, **scorer.features})
    scored = candidates.map(scorer, batched=True, batch_size=500, features=features, desc="Scoring")
    random = np.random.default_rng([seed, list(POOLS).index(name)]).random(len(scored))
    return scored.add_column("random", random).add_column("true", np.array(true, dtype=np.float64))


def scene_id(image_id: str) -> str:
    """The scene of a row: the pool "answers" numbers the questions about it."""
    return image_id.split("#")[0]


def sample_answers(pairs: Dataset, model: PreTrainedModel, processor: ProcessorMixin, seed: int) -> Dataset:
    """Several answers to each of the first questions that were generated about an image, as rows like generated pairs.

    The question is asked as a user asks it. `image_id` becomes "<image_id>#<number of the question>": the candidates of
    a row are those of one question.
    """
    per_question, per_image = (POOLS["answers"][key] for key in ("answers_per_question", "questions_per_image"))
    asked: dict[str, dict[str, int]] = {}
    for row, (image_id, text) in enumerate(zip(pairs["image_id"], pair_texts(pairs))):
        questions = asked.setdefault(image_id, {})
        if text and len(questions) < per_image:
            questions.setdefault(text[0], row)
    sources = [
        (row, f"{image_id}#{number}", question)
        for image_id, questions in asked.items()
        for number, (question, row) in enumerate(questions.items())
    ]
    types, templates = pairs["type"][:], pairs["template"][:]
    sources.sort(key=lambda source: types[source[0]])  # texts of a batch are similarly long; stable
    uniforms = np.random.default_rng([seed, len(POOLS)]).random((len(sources), per_question, MAX_NEW_TOKENS))
    prompts = (
        (number, encode_prompt(processor, [{"role": "user", "content": question}], pairs[row]["images"]), numbers)
        for number, ((row, _, question), numbers) in enumerate(zip(sources, uniforms))
    )
    with TextSampler(model, processor, temperature=1.0, top_p=1.0, batch_size=250) as sampler:
        answers = dict(sampler.write(prompts))
    rows, taken = [], []
    for number, (row, image_id, question) in enumerate(sources):
        for k, text in enumerate(answers[number]):
            usable = text.ended and bool(text.text.strip())
            rows.append(
                {
                    "image_id": image_id,
                    "pair_id": f"{image_id}/{k}",
                    "template": templates[row],
                    "type": types[row],
                    "prompt": [{"role": "user", "content": question}] if usable else None,
                    "completion": [{"role": "assistant", "content": text.text.strip()}] if usable else None,
                    "raw": text.text,
                    "generation_status": "ok" if usable else "empty, or cut off at max_new_tokens",
                }
            )
            taken.append(row)
    features = Features({name: feature for name, feature in PAIR_FEATURES.items() if name in rows[0]})
    images = pairs.select_columns(["images"]).select(taken)
    return concatenate_datasets([images, Dataset.from_list(rows, features=features)], axis=1)


def select(arm: Arm, candidates: Dataset) -> Dataset:
    """The pseudo-label rows that an arm trains on."""
    by_truth = arm.ranking == "true"
    labels, _ = select_pseudo_labels(
        candidates,
        score=arm.ranking,
        within=arm.within,
        max_rejected=arm.max_rejected,
        min_margin=1.0 if by_truth else 0.0,
    )
    if not by_truth:
        return labels
    rejected = [
        [pair for pair, true in zip(pairs, truths) if not true]
        for pairs, truths in zip(labels["rejected"], labels["rejected_scores"])
    ]
    feature = labels.features["rejected"]
    scores = [[0.0] * len(pairs) for pairs in rejected]
    labels = labels.remove_columns(["rejected", "rejected_scores"])
    labels = labels.add_column("rejected", rejected, feature=feature)
    return labels.add_column("rejected_scores", scores, feature=List(Value("float32")))


def describe(labels: Dataset, scenes: Mapping[str, Scene]) -> dict:
    """How many rows, of which types, and how many of their pairs are true."""
    rows = labels.select_columns(["image_id", "type", "chosen", "rejected"])[:]
    found = {"rows": len(labels), "types": dict(Counter(rows["type"]))}
    for name, answers in (("chosen", [[messages] for messages in rows["chosen"]]), ("rejected", rows["rejected"])):
        flat = [(row, messages) for row, several in enumerate(answers) for messages in several]
        _, true = judge_pairs(
            [rows["type"][row] for row, _ in flat],
            [parse_pair(messages[-1]["content"]) for _, messages in flat],
            [scenes[scene_id(rows["image_id"][row])] for row, _ in flat],
        )
        found[name] = [sum(true), len(true)]
    return found
