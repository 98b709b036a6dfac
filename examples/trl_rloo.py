"""RLOO with foresight, watched: a gold reward of weight 0 that nothing trains on, and a monitor that rolls back.

`practical` reads no label of a response: one label a group retrains the reward model. LoRA on the policy.

python examples/trl_rloo.py --output_dir runs/rloo --max_steps 20
torchrun --nproc_per_node 2 examples/trl_rloo.py --output_dir runs/rloo --max_steps 20
"""

from dataclasses import dataclass

from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import ModelConfig, RLOOConfig, RLOOTrainer, TrlParser

import foresighted as fpo


@dataclass
class ScriptArguments:
    reward_model: str | None = None  # default: the embedded encoder
    gamma: float = 1.0


def main(script_args, training_args, model_args):
    policy = model_args.model_name_or_path or fpo.policy_source()
    judge = fpo.RelevanceLabels(
        fpo.load_policy(fpo.TrainConfig(policy=policy), training_args.device), training_args.device
    )
    source = script_args.reward_model or fpo.encoder_source()
    config = fpo.FPOConfig(gamma=script_args.gamma, reward_model_learning_rate=1e-2)
    reward_model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1)
    reward = fpo.FPOReward(reward_model, config, judge, tokenizer=AutoTokenizer.from_pretrained(source))

    def gold(prompts, completions, **_):
        return judge.utility(prompts, completions)

    dataset = [{"prompt": f"Question: {prompt.text}\nAnswer:"} for prompt in fpo.load_prompts("bundled").train]
    training_args.reward_weights = [1.0, 0.0]
    trainer = RLOOTrainer(
        policy,
        reward_funcs=[reward, gold],
        callbacks=[reward, fpo.CollapseMonitor(gold="rewards/gold/mean", action="rollback")],
        args=training_args,
        train_dataset=Dataset.from_list(dataset),
        peft_config=LoraConfig(r=16, lora_alpha=32, task_type="CAUSAL_LM"),
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model(training_args.output_dir)


if __name__ == "__main__":
    main(*TrlParser((ScriptArguments, RLOOConfig, ModelConfig)).parse_args_and_config())
