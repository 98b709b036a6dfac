"""GRPO with foresight: the reward model is retrained after every call, and the policy is charged for steering it.

python examples/trl_grpo.py --output_dir runs/grpo --max_steps 20
accelerate launch --num_processes 2 examples/trl_grpo.py --output_dir runs/grpo --max_steps 20
"""

from dataclasses import dataclass

from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer, ModelConfig, TrlParser, get_peft_config

import foresighted as fpo


@dataclass
class ScriptArguments:
    reward_model: str | None = None  # a sequence classifier or an encoder; default: the embedded encoder
    gamma: float = 1.0


def conversations(prompts):
    return Dataset.from_list([{"prompt": [{"role": "user", "content": prompt.text}]} for prompt in prompts])


def main(script_args, training_args, model_args):
    policy = model_args.model_name_or_path or fpo.policy_source()
    judge = fpo.load_policy(fpo.TrainConfig(policy=policy), training_args.device)
    source = script_args.reward_model or fpo.encoder_source()
    config = fpo.FPOConfig(
        steering="proximal", gamma=script_args.gamma, gamma_unit="share", reward_model_learning_rate=1e-2
    )
    reward = fpo.FPOReward(
        AutoModelForSequenceClassification.from_pretrained(source, num_labels=1),
        args=config,
        labels=fpo.RelevanceLabels(judge, training_args.device),  # or people, or your judge: (prompts, first, second)
        tokenizer=AutoTokenizer.from_pretrained(source),
    )
    prompts = fpo.load_prompts("bundled")
    trainer = GRPOTrainer(
        model=policy,
        reward_funcs=reward,
        callbacks=[reward, fpo.CollapseMonitor(gold="fpo/utility")],
        args=training_args,
        train_dataset=conversations(prompts.train),
        eval_dataset=conversations(prompts.heldout[:16]),
        peft_config=get_peft_config(model_args),
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model(training_args.output_dir)


if __name__ == "__main__":
    main(*TrlParser((ScriptArguments, GRPOConfig, ModelConfig)).parse_args_and_config())
