"""The options of the trainers that matter most, in a few words each; `--help_all` shows all others, in theirs."""

__all__ = ["SHOWN_RUN", "SHOWN_STUDENT", "SHOWN_TRAIN"]

_SHOWN = {
    "output_dir": "Folder of results and checkpoints; by default trainer_output.",
    "seed": "Seed of every random choice.",
    "learning_rate": "Highest learning rate.",
    "num_train_epochs": "Passes over the rows.",
    "max_steps": "Steps, in place of epochs; -1: as many as the epochs have.",
    "per_device_train_batch_size": "Rows in a step on one device.",
    "gradient_accumulation_steps": "Steps whose gradients are added up.",
    "use_lora": "Train adapters; false: all weights of the language model.",
    "lora_r": "Rank of the adapters.",
    "bf16": "Train in bfloat16 (mixed precision); on by default.",
    "activation_checkpointing": "Compute activations again instead of keeping them.",
    "trust_remote_code": "Whether code from the model's repository may be run.",
}
_SHOWN_GENERATOR = {
    **_SHOWN,
    "similarity": "What the contrastive loss compares: likelihoods, or hidden states.",
    "temperature": "Temperature of the contrastive loss: 0.3 for likelihoods, 0.1 for hidden states.",
    "contrastive_weight": "Weight of the contrastive loss beside the likelihood; 0: none.",
}
SHOWN_TRAIN = {
    **_SHOWN_GENERATOR,
    "token_weights": "Weigh the answers' tokens by what the image adds to each.",
}
SHOWN_RUN = {**_SHOWN_GENERATOR, "push_to_hub": "Publish the results on the Hub."}
SHOWN_STUDENT = {
    **_SHOWN,
    "train_projector": "Train the projector, too.",
    "projector_learning_rate": "Its learning rate, if it has one of its own.",
    "max_length": "Longest row in tokens; longer ones are left out.",
}
