"""The same rows as strangers have them: other files, other columns, other pictures. All mean what `plain_rows` says."""

import base64
import csv
import io
import json
import tarfile
from pathlib import Path

import pandas as pd
from datasets import Dataset, Features, Image, LargeList, List, Value
from PIL import Image as PILImage
from scored_rows import picture, png

QUESTION = "What is in the picture?"
ANSWERS = ("A red kite.", "Two dogs.", "Nothing at all.")


def plain_rows():
    """Two pictures, three answers to the question about each; the last row's picture is damaged."""
    rows = [
        {"image": picture(number), "question": QUESTION, "answer": answer} for number in range(2) for answer in ANSWERS
    ]
    return [*rows, {"image": {"bytes": png(0)[:150], "path": None}, "question": QUESTION, "answer": ANSWERS[0]}]


def contents():
    """The encoded picture of each row."""
    return [png(number) for number in range(2) for _ in ANSWERS] + [png(0)[:150]]


def answers():
    return [*ANSWERS, *ANSWERS, ANSWERS[0]]


def files(folder):
    """The path of each row's picture."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number, content in enumerate(contents()):
        # The same picture has one name, so that rows about it belong together however they are told apart.
        path = folder / (f"{number // len(ANSWERS)} a.png" if number < 2 * len(ANSWERS) else "damaged.png")
        path.write_bytes(content)
        paths.append(str(path))
    return paths


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def text(value):
    return {"type": "text", "text": value}


def in_base64():
    return [base64.b64encode(content).decode() for content in contents()]


def write_jsonl(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return path


def of_paths(make):
    """A JSON Lines file with a row of each picture's path and answer."""

    def write(folder):
        return write_jsonl(folder, [make(path, answer) for path, answer in zip(files(folder / "im"), answers())])

    return write


def llava(path, answer, question=f"<image>\n{QUESTION}"):
    return {"image": path, "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}


def json_column(folder):
    """`datasets` stores this column as JSON text: contents are lists in some messages and texts in others."""
    rows = [
        {"images": [path], "messages": [user([{"type": "image"}, text(QUESTION)]), assistant(answer)]}
        for path, answer in zip(files(folder / "im"), answers())
    ]
    return write_jsonl(folder, rows)


def both_columns(folder):
    """Every second row has its picture in the other column."""
    rows = []
    for number, (path, answer) in enumerate(zip(files(folder / "im"), answers())):
        column = {"image": path} if number % 2 else {"images": [path]}
        rows.append({**column, "question": QUESTION, "answer": answer})
    return write_jsonl(folder, rows)


def csv_of_paths(folder, separator=","):
    path = folder / ("rows.tsv" if separator == "\t" else "rows.csv")
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(["image", "question", "answer"])
        writer.writerows([file, QUESTION, answer] for file, answer in zip(files(folder / "im"), answers()))
    return path


def tsv_of_base64(folder):
    path = folder / "rows.tsv"
    rows = {"index": range(7), "image": in_base64(), "question": [QUESTION] * 7, "answer": answers()}
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False)
    return path


def parquet_of_pandas(folder):
    path = folder / "rows.parquet"
    pd.DataFrame({"image": contents(), "question": [QUESTION] * 7, "answer": answers()}).to_parquet(path)
    return path


def parquet_of_datasets(folder):
    texts = {"user": Value("string"), "assistant": Value("string"), "source": Value("string")}
    rows = [
        {
            "images": [{"bytes": content, "path": None}],
            "texts": [{"user": QUESTION, "assistant": answer, "source": "x"}],
        }
        for content, answer in zip(contents(), answers())
    ]
    features = Features({"images": List(Image()), "texts": List(texts)})
    Dataset.from_list(rows, features=features).to_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


def large_lists(folder):
    rows = [
        {"images": [{"bytes": content, "path": None}], "messages": [user(QUESTION), assistant(answer)]}
        for content, answer in zip(contents(), answers())
    ]
    message = {"role": Value("string"), "content": Value("string")}
    features = Features({"images": LargeList(Image()), "messages": LargeList(message)})
    Dataset.from_list(rows, features=features).save_to_disk(folder / "rows")
    return folder / "rows"


def web_dataset(folder):
    path = folder / "rows.tar"
    with tarfile.open(path, "w") as tar:
        for number, (content, answer) in enumerate(zip(contents(), answers())):
            pair = json.dumps({"question": QUESTION, "answer": answer}).encode()
            for ending, part in (("png", content), ("json", pair)):
                member = tarfile.TarInfo(f"{number:04d}.{ending}")
                member.size = len(part)
                tar.addfile(member, io.BytesIO(part))
    return path


# Name → the function that writes the rows into a folder, and gives what `open_dataset` takes.
KINDS = {
    "JSON column": json_column,
    "LLaVA": of_paths(llava),
    "markers in messages": of_paths(
        lambda path, answer: {"images": [path], "messages": [user(f"<image>{QUESTION}"), assistant(answer)]}
    ),
    "items in both messages": of_paths(
        lambda path, answer: {
            "images": [path],
            "messages": [user([{"type": "image"}, text(QUESTION)]), assistant([{"type": "text", "text": answer}])],
        }
    ),
    "pictures in messages": of_paths(
        lambda path, answer: {
            "messages": [user([{"type": "image", "image": path}, text(QUESTION)]), assistant([text(answer)])]
        }
    ),
    "OpenAI's items": of_paths(
        lambda path, answer: {
            "messages": [
                user([{"type": "image_url", "image_url": {"url": Path(path).as_uri()}}, text(QUESTION)]),
                assistant(answer),
            ]
        }
    ),
    "texts": of_paths(lambda path, answer: {"image": path, "prompt": QUESTION, "completion": answer}),
    "instruction": of_paths(
        lambda path, answer: {"image": path, "instruction": QUESTION, "input": "", "output": answer, "history": []}
    ),
    "image and images": both_columns,
    "CSV": csv_of_paths,
    "TSV": lambda folder: csv_of_paths(folder, "\t"),
    "base64 in TSV": tsv_of_base64,
    "bytes in parquet": parquet_of_pandas,
    "FineVision": parquet_of_datasets,
    "large lists": large_lists,
    "WebDataset": web_dataset,
}


def rgba():
    """A picture with soft transparent edges, and the same on white."""
    shape = PILImage.new("RGBA", (32, 32), (0, 0, 0, 0))
    shape.putalpha(PILImage.linear_gradient("L").resize((32, 32)))
    return shape, PILImage.alpha_composite(PILImage.new("RGBA", (32, 32), "white"), shape).convert("RGB")
