"""Would my loop collapse? A rehearsal with a reward model folder and a judge function of one's own.

The folder is made here, from the embedded encoder, to have one: put your own in its place. The judge gives preferences
without a utility, so arms are compared by win rates, and no arm is the ceiling.

python examples/rehearse_mine.py
foresighted rehearse --reward-model runs/my-reward-model --initial-pairs 32 --initial-steps 100 \
    --labels examples/rehearse_mine.py:prefer --out runs/my-rehearsal
"""

from pathlib import Path

from transformers import AutoModelForSequenceClassification, AutoTokenizer

import foresighted as fpo


def prefer(prompt, first, second):
    """Prefer the answer that says more which the question did not."""
    asked = set(prompt.lower().split())
    one, other = (len(set(answer.lower().split()) - asked) for answer in (first, second))
    return 0.5 if one == other else float(one > other)


def make_reward_model(folder):
    """Save an encoder with one label, and its tokenizer, as `RewardTrainer` would leave a reward model."""
    source = fpo.encoder_source()
    AutoModelForSequenceClassification.from_pretrained(source, num_labels=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def main(folder="runs/my-reward-model", out="runs/my-rehearsal", **settings):
    if not Path(folder).exists():
        make_reward_model(folder)
    learns = {"initial_pairs": 32, "initial_steps": 100}  # this head knows nothing yet; one that does needs none
    found = fpo.rehearse(reward_model=folder, labels=prefer, out=out, **learns, **settings)
    print(*found.sentences, found.command, found.lines, f"page: {fpo.report(found)}", sep="\n\n")


if __name__ == "__main__":
    main(progress=True)
