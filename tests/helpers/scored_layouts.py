"""The same scored pairs as rows of every layout that is accepted."""

import io
from base64 import b64encode

from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

COLOURS = ["red", "green", "blue"]
# (image, question, answer, score): image 0 has two pairs that read alike, image 2 one pair.
PAIRS = [
    (0, "How many dogs?", "There are two dogs on the grass.", 0.5),
    (1, "What is it?", "A cat that sleeps on a chair.", 0.9),
    (0, "Which colour?", "It is as red as it can be.", 0.7),
    (0, "how many dogs", "There are three.", 0.1),
    (1, "Where is it?", "On the left, near the door.", 0.2),
    (2, "Who is there?", "Nobody is to be seen.", 0.4),
    (1, "What is near it?", "An old lamp.", 0.3),
]


def content(colour):
    file = io.BytesIO()
    PILImage.new("RGB", (8, 6), colour).save(file, "PNG")
    return file.getvalue()


PNG = list(map(content, COLOURS))


def stored(image):
    return {"bytes": PNG[image], "path": None}


def user(value):
    return [{"role": "user", "content": value}]


def assistant(value):
    return [{"role": "assistant", "content": value}]


def item(text):
    return [{"type": "text", "text": text}]


def items(text):
    return [{"type": "image", "text": None}, *item(text)]


def url(text, image):
    address = {"url": "data:image/png;base64," + b64encode(PNG[image]).decode()}
    return [{"type": "image_url", "image_url": address}, {"type": "text", "text": text}]


def llava(question, answer):
    return [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]


LAYOUTS = {
    "messages of texts": lambda i, q, a: {"images": [stored(i)], "prompt": user(q), "completion": assistant(a)},
    "markers": lambda i, q, a: {"images": [stored(i)], "prompt": user(f"<image>\n{q}"), "completion": assistant(a)},
    "a system message": lambda i, q, a: {
        "image": stored(i),
        "prompt": [{"role": "system", "content": "Be short."}, *user(q)],
        "completion": assistant(a),
    },
    "texts": lambda i, q, a: {"image": stored(i), "prompt": q, "completion": a},
    "items": lambda i, q, a: {"images": [stored(i)], "prompt": user(items(q)), "completion": assistant(item(a))},
    "question, answer": lambda i, q, a: {"image": PNG[i], "question": f"<image>{q}", "answer": a},
    "one of answers": lambda i, q, a: {"image": stored(i), "question": q, "answers": [a]},
    "conversations": lambda i, q, a: {"image": stored(i), "conversations": llava(q, a)},
    "messages in columns": lambda i, q, a: {
        "images": [stored(i)],
        "messages": {"role": ["user", "assistant"], "content": [q, a]},
    },
    "messages": lambda i, q, a: {"images": [stored(i)], "messages": user(q) + assistant(a)},
    "pictures in messages": lambda i, q, a: {"messages": user(url(q, i)) + assistant(item(a))},
    "FineVision": lambda i, q, a: {"images": [stored(i)], "texts": [{"user": q, "assistant": a}]},
    "prompt, response": lambda i, q, a: {"image": stored(i), "prompt": q, "response": a},
    "query, response": lambda i, q, a: {"images": [stored(i)], "query": f"<image>{q}", "response": a, "history": []},
    "instruction, output": lambda i, q, a: {"image": stored(i), "instruction": q, "input": "", "output": a},
}


def types_of(value, name=""):
    """The type of a column by a value, images as images."""
    if isinstance(value, dict) and set(value) == {"bytes", "path"}:
        return Image()
    if name == "history":
        return List(List(Value("string")))
    if isinstance(value, list):
        return List(types_of(value[0]))
    return {key: types_of(inner) for key, inner in value.items()} if isinstance(value, dict) else None


def scored(rows, values):
    """Rows as `score_dataset` gives them back, with the number of each."""
    rows = [
        {**row, "number": number, "i2c": score, "i2c_status": "no" if score is None else "ok"}
        for number, (row, score) in enumerate(zip(rows, values))
    ]
    plain = Dataset.from_list([{k: v for k, v in row.items() if not has_image(v)} for row in rows])
    features = Features({k: plain.features[k] if k in plain.features else types_of(v) for k, v in rows[0].items()})
    return Dataset.from_list(rows, features=features)


def has_image(value):
    value = value[0] if isinstance(value, list) and value else value
    return isinstance(value, dict) and "bytes" in value


def dataset_of(layout, pairs=PAIRS):
    return scored([LAYOUTS[layout](*pair[:3]) for pair in pairs], [pair[3] for pair in pairs])
