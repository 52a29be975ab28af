"""The classes of published reward models that transformers does not have, as their authors wrote them, so that the checkpoints
are made by save_pretrained of a class with the same name, the same tensors and the same config keys.

INFORMForSequenceClassification   INF-ORM: Linear, ReLU, Linear over Llama
RewardModel                       OpenRLHF: a linear head named by config.json's value_head_prefix, over any trunk
EurusRewardModel                  Eurus-RM: a linear head without bias over Mistral
Qwen2ForPrmModel                  Skywork-o1-Open-PRM: a language model and a value head beside its own
"""
import torch
import transformers


class INFORMForSequenceClassification(transformers.LlamaPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        n = config.hidden_size
        self.model = transformers.LlamaModel(config)
        self.score = torch.nn.Sequential(torch.nn.Linear(n, n), torch.nn.ReLU(), torch.nn.Linear(n, config.num_labels))
        self.post_init()


class ValueHead(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.summary = torch.nn.Linear(config.hidden_size, 1)

    def forward(self, hidden):
        return self.summary(hidden)


class EurusRewardModel(transformers.MistralPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.model = transformers.MistralModel(config)
        self.regression_head = torch.nn.Linear(config.hidden_size, 1, bias=False)
        self.post_init()


class Qwen2ForPrmModel(transformers.Qwen2PreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.model = transformers.Qwen2Model(config)
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.v_head = ValueHead(config)
        self.post_init()


def reward_model(settings):
    """OpenRLHF derives its class from that of the trunk."""
    base = getattr(transformers, {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}[settings.model_type]
                   + "PreTrainedModel")

    class RewardModel(base):
        def __init__(self, config):
            super().__init__(config)
            self.model = transformers.AutoModel.from_config(config)
            setattr(self, config.value_head_prefix, torch.nn.Linear(config.hidden_size, 1, bias=False))
            self.post_init()
    return RewardModel(settings)


def build(architecture, settings):
    """An instance of the class of that name."""
    if architecture == "RewardModel":
        return reward_model(settings)
    return (globals().get(architecture) or getattr(transformers, architecture))(settings)
