"""What a judge may do wrong is told of each picture; where prompts come from; replies in JSON; the bill."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from deepgen.cli.app import main
from deepgen.evaluation import response_schema as schemas
from deepgen.evaluation.benchmark import settings_with
from deepgen.evaluation.benchmarks import corebench, dpg, gedit, imgedit, load_benchmark, unigenbench, wise
from deepgen.evaluation.judge import JudgeConfig, PromptedJudge, image_query
from deepgen.evaluation.judge_benchmark import parse_final_score
from deepgen.evaluation.judge_prompts import OFFICIAL, JudgePrompts
from deepgen.evaluation.runner import RunConfig, run
from deepgen.evaluation.scorers import Scorers
from deepgen.rewards.reward import RewardUnavailable
from evaluation.benchmark_files import NoiseModel, judge_answer, write, write_all
from rewards.reward_server import serving


@pytest.fixture
def data(tmp_path):
    return write_all(tmp_path / "data")


def scorers(server, cache=None, prompts=None, **options):
    config = JudgeConfig(url=f"{server.url}/v1", model="stub", **{"retries": 0, **options})
    return Scorers(judge=PromptedJudge(config, cache_dir=cache, prompts_dir=prompts))


def go(name, data, output, scorers, **config):
    benchmark = load_benchmark(name)
    settings = settings_with(benchmark.settings, height=16, width=16, num_inference_steps=1)
    given = {"output_dir": output, "data_dir": data, "allow_altered": True, **config}
    return run(benchmark, NoiseModel(), settings, RunConfig(**given), scorers)


def words(message, model="stub"):
    return 200, {"model": model, "choices": [{"message": message, "finish_reason": "stop"}]}


# --- what goes wrong ----------------------------------------------------------------------------------------


def problems(name, data, tmp_path, answer, **options):
    """Of a run in which the judge fails at item 401 alone."""
    fine = judge_answer()

    def mostly(path, document):
        return answer() if "thing 401" in str(document["messages"]) else fine(path, document)

    with serving(mostly) as server:
        given = scorers(server, tmp_path / "cache", **options)
        result = go(name, data, tmp_path, given, allow_partial=True)
    assert result["num_judged"] == result["num_expected"] - 1
    assert result["is_partial"]
    (problem,) = result["problems"]
    assert problem.startswith("401: sample 0, legacy: ")
    return problem


def test_a_judge_that_answers_prose_is_a_problem_of_the_item(data, tmp_path):
    said = problems("wise", data, tmp_path, lambda: words({"content": "What a lovely picture."}))
    assert "no readable answer in 3 attempts, at last 'What a lovely picture.'" in said


def test_a_judge_that_refuses_is_a_problem_of_the_item(data, tmp_path):
    said = problems("wise", data, tmp_path, lambda: words({"content": None, "refusal": "I cannot help."}))
    assert "stub refused: 'I cannot help.'" in said


def test_a_judge_that_says_nothing_is_a_problem_of_the_item(data, tmp_path):
    said = problems("wise", data, tmp_path, lambda: words({"content": ""}))
    assert "stub said nothing (finish_reason 'stop')" in said


def test_a_judge_that_times_out_is_a_problem_of_the_item(data, tmp_path):
    def slow():
        time.sleep(1.5)
        return words({"content": "Consistency: 2\nRealism: 2\nAesthetic Quality: 2"})

    said = problems("wise", data, tmp_path, slow, timeout=0.5)
    assert "does not answer (ReadTimeout('timed out'), 1 tries)" in said


def test_a_reply_of_another_model_is_a_problem_of_the_item(data, tmp_path):
    other = lambda: words({"content": "Consistency: 2\nRealism: 2\nAesthetic Quality: 2"}, "second")  # noqa: E731
    said = problems("wise", data, tmp_path, other, concurrency=1)
    assert "answered as 'stub' and now as 'second'; scores of two judges do not mix" in said


def test_an_endpoint_that_stays_another_model_is_not_asked_for_ever(tmp_path):
    models = iter(["first", *["second"] * 100])
    with serving(lambda *asked: words({"content": "yes"}, next(models))) as server:
        judge = scorers(server, tmp_path).judge
        assert judge.ask(image_query(text="0")) == "yes"
        for number in range(20):
            with pytest.raises(RewardUnavailable, match=r"another model|now as"):
                judge.ask(image_query(text=f"question {number}"))
        assert len(server.requests) == 1 + 8
        again = scorers(server, tmp_path).judge  # a later run knows whose replies were kept
        assert again.ask(image_query(text="0")) == "yes"
        with pytest.raises(RewardUnavailable, match="answered as 'first' and now as 'second'"):
            again.ask(image_query(text="1"))


def test_a_judge_keeps_to_its_rate_and_waits_where_it_is_told_to(tmp_path):
    with serving(judge_answer(says=lambda text: "yes")) as server:
        judge = scorers(server, per_minute=600).judge
        start = time.monotonic()
        for number in range(4):
            judge.ask(image_query(text=str(number)))
        assert time.monotonic() - start >= 0.3
    busy = iter([(429, "slow down"), (429, "slow down")])
    fine = judge_answer(says=lambda text: "yes")
    with serving(lambda *asked: next(busy, None) or fine(*asked)) as server:
        assert scorers(server, retries=2).judge.ask(image_query(text="q")) == "yes"
        assert len(server.requests) == 3


# --- prose, and what follows --------------------------------------------------------------------------------


def test_what_was_not_readable_is_asked_anew_in_the_next_run(data, tmp_path):
    with serving(judge_answer(says=lambda text: "I would rather not say.")) as server:
        with pytest.raises(ValueError, match=r"no readable answer in 3 attempts.*rather not say"):
            go("wise", data, tmp_path, scorers(server, tmp_path / "cache"))
        assert len(server.requests) == 7 * 3
    with serving(judge_answer()) as server:
        result = go("wise", data, tmp_path, scorers(server, tmp_path / "cache"))
        assert (result["coverage"], len(server.requests)) == (1, 7)


def test_a_judge_that_fails_is_asked_once_more_in_the_next_run(data, tmp_path):
    replies = iter([(500, "broken")] * 3)
    fine = judge_answer()
    with serving(lambda *asked: next(replies, None) or fine(*asked)) as server:
        with pytest.raises(ValueError, match="answered 500"):
            go("wise", data, tmp_path, scorers(server, tmp_path / "cache"))
        result = go("wise", data, tmp_path, scorers(server, tmp_path / "cache"))
        assert result["coverage"] == 1
        assert len(server.requests) == 3 + 7


# --- structured replies -------------------------------------------------------------------------------------


def in_json(document):
    """What a server that holds to the schema says: the first of an enum, the highest number, empty words."""
    if "response_format" not in document:
        return 200, {"choices": [{"message": {"content": "prose"}}]}
    schema = document["response_format"]["json_schema"]["schema"]
    made = {key: value_of(kind) for key, kind in schema["properties"].items()}
    return words({"content": json.dumps(made)})


def value_of(kind):
    if "enum" in kind:
        return kind["enum"][0]
    if kind["type"] == "array":
        return [value_of(kind["items"])] * kind["minItems"]
    return "It is 1: fine, yes or no." if kind["type"] == "string" else kind["maximum"]


@pytest.mark.parametrize(
    ("name", "metric", "best"),
    [
        ("wise:legacy", "overall", 1),
        ("wise:verified", "overall", 1),
        ("dpg", "overall", 100),
        ("unigenbench", "overall", 0),
        ("corebench:reasoning", "reasoning", 100),
        ("imgedit", "overall", 5),
        ("risebench:64", "accuracy_new", 100),
        ("unireditbench", "overall", 100),
    ],
)
def test_replies_held_to_a_schema_are_read(name, metric, best, data, tmp_path):
    with serving(lambda path, document: in_json(document)) as server:
        result = go(name, data, tmp_path, scorers(server))
    assert result["table"][metric] == pytest.approx(best)
    assert result["problems"] == []
    assert result["manifest"]["scorer"].count(" json") == 1


def test_forms_tell_their_json_as_the_parsers_read_it():
    reply = {"reasoning": "Realism: 9\nyes: 5", "Final Score": 4}
    assert parse_final_score(schemas.one_grade(1, 5).read(json.dumps(reply))) == [4]
    reply = {"reasoning": "so: 3", "Instruction": 5, "Naturalness": 4, "Preservation": 3}
    graded = schemas.grades("Instruction", "Naturalness", "Preservation", low=1, high=5)
    assert imgedit.parse(graded.read(json.dumps(reply))) == 4
    reply = {"reasoning": "", "Consistency": 0, "Realism": 1, "Aesthetic Quality": 2}
    graded = schemas.grades("Consistency", "Realism", "Aesthetic Quality", low=0, high=2)
    assert wise.parse_legacy(graded.read(json.dumps(reply))) == [0, 1, 2]
    assert wise.parse_verified(schemas.final_bit().read('{"reasoning": "", "Score": 1}')) == 1
    assert corebench.parse(schemas.yes_or_no().read('{"answer": "no"}'), "official") == 0
    assert dpg.is_yes(schemas.yes_or_no().read('{"answer": "yes"}')) == 1
    assert gedit.parse(schemas.two_scores(0, 10).read('{"reasoning": "so", "score": [9, 4]}')) == [
        9,
        4,
    ]
    assert unigenbench.parse(schemas.bits(2).read('{"analysis": ["it\'s", "b"], "score": [1, 0]}'), 2) == [
        1,
        0,
    ]
    for other in ("Final Score: 2", '{"score": 1}', "[1]"):
        assert schemas.one_grade(1, 5).read(other) == other


def test_a_server_without_schemas_is_asked_in_words_and_the_bill_says_so(data, tmp_path):
    fine = judge_answer()

    def refuses(path, document):
        if "response_format" in document:
            return 400, {"error": {"message": "response_format is not supported"}}
        return fine(path, document)

    with serving(refuses) as server:
        given = scorers(server, concurrency=1)
        result = go("wise", data, tmp_path, given)
        held = ["response_format" in document for _, document in server.requests]
    assert held == [True] + [False] * 7  # tried once
    assert "response_format is not supported" in result["judge"]["schema_refused"]
    assert result["coverage"] == 1


def test_a_question_that_is_refused_with_and_without_a_schema_blames_no_schema(tmp_path):
    with serving(lambda *asked: (400, "the picture is too large")) as server:
        judge = scorers(server).judge
        with pytest.raises(RewardUnavailable, match="too large"):
            judge.ask(image_query(text="q", schema={"type": "object"}))
        assert judge.schema_refused == ""


def test_words_can_be_asked_for_instead(data, tmp_path):
    with serving(judge_answer()) as server:
        result = go("wise", data, tmp_path, scorers(server, replies="words"))
        assert not any("response_format" in document for _, document in server.requests)
    assert " json" not in result["manifest"]["scorer"]


# --- the bill -----------------------------------------------------------------------------------------------


def test_the_bill_counts_tokens_and_kept_replies_cost_nothing(data, tmp_path):
    with serving(judge_answer()) as server:
        given = scorers(server, tmp_path / "cache", price_in=10.0, price_out=100.0)
        result = go("wise", data, tmp_path / "one", given)
        assert result["judge"]["tokens_in"] == 7 * 100
        assert result["judge"]["cost"] == pytest.approx(7 * (100 * 10 + 10 * 100) / 1e6)
        again = scorers(server, tmp_path / "cache", price_in=10.0, price_out=100.0)
        result = go("wise", data, tmp_path / "two", again)
    assert (result["judge"]["asked"], result["judge"]["cost"]) == (0, 0)
    assert result["judge"]["cached_tokens_in"] == 700


def test_an_estimate_grows_with_questions_and_pictures(data):
    benchmark = load_benchmark("wise")
    items = benchmark.items(data, allow_altered=True)
    small = settings_with(benchmark.settings, height=28, width=28)
    large = settings_with(benchmark.settings, height=280, width=28, num_samples=2)
    first, second = benchmark.estimate(items, small), benchmark.estimate(items, large)
    assert (first.questions, second.questions) == (7, 14)
    assert second.tokens_in == pytest.approx(2 * (first.tokens_in + 7 * 9))
    assert second.tokens_out == 2 * first.tokens_out


# --- prompts ------------------------------------------------------------------------------------------------


def test_the_users_prompts_are_used_and_a_missing_one_is_named(data, tmp_path):
    prompts = tmp_path / "prompts"
    write(prompts / "wise/legacy.txt", 'Grade {prompt} ({explanation}). {"keep": "braces"}')
    write(prompts / "wise/verified.txt", "Is it so? {prompt}")
    says = judge_answer(says=lambda text: "Consistency: 2\nRealism: 2\nAesthetic Quality: 2")
    with serving(says) as server:
        given = scorers(server, prompts=prompts)
        result = go("wise", data, tmp_path / "run", given)
        texts = {request["messages"][0]["content"][0]["text"] for _, request in server.requests}
        assert 'Grade thing 1 (meaning 1). {"keep": "braces"}' in texts
        assert not any("response_format" in request for _, request in server.requests)
        assert "prompts given" in result["manifest"]["scorer"]
        assert result["manifest"]["prompts"]["revision"].startswith("sha256 ")
        with pytest.raises(FileNotFoundError, match=r"imgedit/\w+\.txt is missing.*judge_prompt\.json"):
            go("imgedit", data, tmp_path / "run", given)
        with pytest.raises(FileNotFoundError, match="not read from checkouts"):
            go("unigenbench", data, tmp_path / "run", given)


def test_all_missing_prompts_are_named_with_what_to_write_into_them(tmp_path, data, capsys):
    """Another revision of a repository may lack some: RISEBench's older ones have other names."""
    names = {source.names[0] for source in OFFICIAL["risebench"].values()}
    known = sorted(names - {"prompt_logical_cons", "prompt_logical_img_wo_q"})
    write(tmp_path / "risebench/utils.py", "".join(f"{name} = '{{instruct}}'\n" for name in known))
    options = ["--data", str(data), "--allow-altered-data", "--negative", "", "-o", str(tmp_path / "run")]
    options += ["--judge-url", "http://127.0.0.1:9/v1", "--judge-model", "m"]
    command = ["eval", "run", "risebench:64", "--model", "tiny", *options]
    assert main([*command, "--judge-prompts", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "utils.py does not hold the prompt (prompt_logical_cons)" in said
    assert f"write the prompt into {tmp_path}/risebench/logical_consistency.txt, with {{instruction}}" in said
    assert "so it is with logical_reasoning_picture_alone.txt" in said
    assert "logical_reasoning_picture_alone.txt" in said.strip().splitlines()[-1], "all in one line"
    for name in ("logical_consistency", "logical_reasoning_picture_alone"):
        write(tmp_path / f"risebench/{name}.txt", "{instruction}")
    JudgePrompts(tmp_path).check("risebench", load_benchmark("risebench").rubrics)
    with pytest.raises(FileNotFoundError, match=r"dpg/question\.txt is missing.*with \{question\} for what"):
        JudgePrompts(tmp_path).check("dpg", load_benchmark("dpg").rubrics)


def repository(prompts):
    """Files in the shape of official repositories, with words of our own."""
    write(
        prompts / "wise/WISE_legacy/gpt_eval.py",
        "import openai  # never run\n"
        "def build(prompt_data):\n"
        '    return [{"role": "system", "content": [{"type": "text", "text": "You grade."}]},\n'
        '            {"role": "user", "content": f"""Grade {prompt_data["Prompt"]}\n'
        'by {prompt_data["Explanation"]}."""}]\n',
    )
    write(
        prompts / "wise/vllm_eval.py",
        "SYSTEM = [{'role': 'system', 'content': 'You decide.'}]\n"
        "ask = lambda prompt_data: f\"{prompt_data['Prompt']} / {prompt_data['Explanation']}\"\n",
    )
    write(
        prompts / "corebench/evaluate.py",
        'TEMPLATE = "Say yes " "or no."\n'
        "def ask(METADATA, QUESTION):\n"
        '    TEXT = f\'P {METADATA["Prompt"]} Q {QUESTION["question"]}\'\n',
    )
    names = {source.names[0] for source in OFFICIAL["risebench"].values()}
    write(prompts / "risebench/utils.py", "".join(f"{name} = '{name}: {{instruct}}'\n" for name in names))
    names = {source.names[0] for source in OFFICIAL["unireditbench"].values()}
    write(prompts / "unireditbench/eval/utils.py", "".join(f"{name} = '{{instruct}}'\n" for name in names))
    kinds = {kind: f"{kind} <edit_prompt>" for kind in OFFICIAL["imgedit"]}
    write(prompts / "imgedit/singleturn/judge_prompt.json", kinds)
    names = {name for source in OFFICIAL["gedit"].values() for name in source.names}
    write(
        prompts / "gedit/GEdit-Bench/viescore/vie_prompts.py",
        "".join(f"{name} = '{name} <instruction>'\n" for name in sorted(names)),
    )


def git(folder, *words):
    subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True)


def test_prompts_are_read_from_a_checkout_with_its_revision(data, tmp_path):
    prompts = tmp_path / "prompts"
    repository(prompts)
    git(prompts / "wise", "init")
    git(prompts / "wise", "add", ".")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    git(prompts / "wise", *identity, "commit", "-m", "one")
    said = judge_answer(says=lambda text: "Consistency: 2\nRealism: 2\nAesthetic Quality: 2")

    def answer(path, document):  # a system message stands before the question
        return said(path, {"messages": document["messages"][-1:]})

    with serving(answer) as server:
        result = go("wise", data, tmp_path / "run", scorers(server, prompts=prompts))
        first = server.requests[0][1]["messages"]
    assert first[0] == {"role": "system", "content": "You grade."}
    assert first[1]["content"][0]["text"].startswith("Grade thing ")
    source = result["manifest"]["prompts"]
    assert source["files"] == ["WISE_legacy/gpt_eval.py", "vllm_eval.py"]
    head = subprocess.run(
        ["git", "-C", prompts / "wise", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert source["revision"] == f"git {head}"
    with (prompts / "wise/vllm_eval.py").open("a") as file:
        file.write("# changed\n")
    wordings = JudgePrompts(prompts)
    wordings.get("wise", "verified", "")
    assert wordings.source("wise")["revision"] == f"git {head}+changed"


def test_every_known_place_of_an_official_prompt_can_be_read(tmp_path):
    repository(tmp_path)
    wordings = JudgePrompts(tmp_path)
    for benchmark, questions in OFFICIAL.items():
        for question in questions:
            assert question in load_benchmark(benchmark).rubrics
            wording = wordings.get(benchmark, question, "ours")
            assert "instruct}" not in wording.text.replace("{instruction}", "")
            assert "<" not in wording.text or question == "quality"
    core = wordings.get("corebench", "question", "ours")
    assert (core.system, core.text) == ("Say yes or no.", "P {prompt} Q {question}")
    assert wordings.get("gedit", "quality", "").text.count("\n") == 1
    assert wordings.source("risebench")["revision"].startswith("sha256 ")


def test_another_revision_without_the_prompt_is_named(tmp_path):
    write(tmp_path / "risebench/utils.py", "prompt_other = 'x'\n")
    with pytest.raises(ValueError, match=r"utils\.py does not hold the prompt \(prompt_consist\)"):
        JudgePrompts(tmp_path).get("risebench", "consistency", "")
