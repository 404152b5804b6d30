"""The encoder of both objectives as transformers models: conv encoder, span masks, transformer."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import overload

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices
from transformers.utils import ModelOutput, can_return_tuple

from hf_ssl_speech.models.configuration import SSLHubertConfig, SSLSpeechConfig, SSLWav2Vec2Config
from hf_ssl_speech.models.conv_encoder import ConvEncoder, FeatureProjection, ScaleGradient
from hf_ssl_speech.models.frames import frame_mask, num_frames
from hf_ssl_speech.models.initialization import initialize
from hf_ssl_speech.models.sizes import OtherSizes, check_sizes
from hf_ssl_speech.models.transformer import Transformer
from hf_ssl_speech.uploading import WEIGHTS_PUSHED, Repository

logger = logging.getLogger(__name__)

# Of a minute of audio at unit variance no sample is larger: its square is at most their number.
LOUDEST = 1_000


@dataclass
class SSLSpeechModelOutput(ModelOutput):
    """The outputs of the encoder.

    Attributes:
        last_hidden_state: `(batch, frames, hidden)`.
        extract_features: Normalised output of the conv encoder, `(batch, frames, channels)`: what gets quantised.
        conv_features: The same before its layer norm: what the feature penalty looks at.
        frame_mask: True on real frames, `(batch, frames)`; None where nothing is padded.
        hidden_states: With `output_hidden_states`, the transformer's input and the output of each layer.
        attentions: With `output_attentions`, the weights of each layer, `(batch, heads, frames, frames)`.
    """

    last_hidden_state: Tensor | None = None
    extract_features: Tensor | None = None
    conv_features: Tensor | None = None
    frame_mask: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class SSLSpeechPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and saving of every model of the package."""

    config: SSLSpeechConfig
    main_input_name = "input_values"
    input_modalities = "audio"
    supports_gradient_checkpointing = True
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _no_split_modules = ["TransformerLayer", "PositionalConv"]
    # The heads of other tasks: most users load only the encoder of a checkpoint, which is no reason for a warning.
    _keys_to_ignore_on_load_unexpected = [
        r"^(quantizer|project_q|project_hid|to_unit_space|unit_embeddings|prediction_heads|lm_head)\b",
        r"^(layer_weights|projector|pooling_attention|classifier)\b",
    ]
    is_told = False  # whether `set_update` was called, or its absence warned of

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """The originals' initial values. transformers asks for them wherever a module's own weights were not loaded."""
        if not initialize(module):
            super()._init_weights(module)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike | None, *args, **kwargs):
        """Loads ours, or a stock wav2vec 2.0 or HuBERT checkpoint, as transformers does.

        Raises:
            ValueError: If the weights are damaged.
            OtherSizes: If their shapes differ from the configuration; it is a ValueError and, as in transformers, a
                RuntimeError.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except SafetensorError as error:
            raise ValueError(
                f"The weights in {pretrained_model_name_or_path} are damaged ({error}). Load an earlier checkpoint, or "
                "download them again with `force_download=True`."
            ) from error
        except (OtherSizes, RuntimeError) as error:
            if not isinstance(error, OtherSizes) and "mismatch" not in str(error):
                raise
            raise OtherSizes(
                f"The weights in {pretrained_model_name_or_path} have other shapes than {cls.__name__}'s config: "
                f"load them with their own `config.json`, or choose the preset they were made with. {error}"
            ) from error

    @classmethod
    def _load_pretrained_model(cls, model: PreTrainedModel, state_dict: dict | None, files: list[str] | None, *rest):
        """Checks the sizes first: transformers would allocate all memory that the config asks for."""
        readable = bool(files) and all(str(file).endswith(".safetensors") for file in files)
        if readable and state_dict is None and not rest[0].ignore_mismatched_sizes:
            check_sizes(model, cls.base_model_prefix, files)
        return super()._load_pretrained_model(model, state_dict, files, *rest)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, **settings) -> str:
        """Puts the bare model into a repository, as in transformers; other files there stay.

        Weights that an earlier push left are removed in the same commit. `hf_ssl_speech.push_to_hub` publishes the
        folder of a run, with a card made from its records.

        Args:
            repo_id: `name` or `owner/name`.
            private: Whether a new repository is; by default as its owner has it.
            settings: `token`, `revision`, `commit_message`, `create_pr`, `max_shard_size` and `tags`.
        Raises:
            ValueError: If `private` is asked of a public repository.
            PushFailed: If the Hub can't be reached or refuses.
        """
        if private:
            Repository(repo_id, private=True, token=settings.get("token"), create_pr=settings.get("create_pr", False))
        return super().push_to_hub(repo_id, private=private, **settings)

    def _upload_modified_files(self, working_dir, repo_id, files_timestamps, commit_message=None, **settings) -> str:
        """What transformers calls at the end of a push; its own leaves the weights of an earlier push, which win."""
        settings.pop("commit_description", None)
        repository = Repository(repo_id, kept="the model", **settings)
        modified = self._get_files_timestamps(working_dir).items()
        files = [file for file, time in modified if time > files_timestamps.get(file, -1.0)]
        removed = repository.holding(*WEIGHTS_PUSHED)
        return repository.commit(working_dir, files, commit_message or "Upload model", removed=removed).commit

    @overload
    def num_frames(self, num_samples: int) -> int: ...

    @overload
    def num_frames(self, num_samples: Tensor) -> Tensor: ...

    def num_frames(self, num_samples: int | Tensor) -> int | Tensor:
        """Number of frames that the conv encoder makes from this many samples."""
        return num_frames(num_samples, self.config.conv_layers)

    def _get_feat_extract_output_lengths(self, input_lengths: int | Tensor) -> int | Tensor:
        """`num_frames` under the name that code for stock models asks for."""
        return self.num_frames(input_lengths)

    def _get_feature_vector_attention_mask(self, feature_vector_length: int, attention_mask: Tensor) -> Tensor:
        """True on real frames, `(batch, frames)`, under the name that code for stock models asks for."""
        return frame_mask(self.num_frames(attention_mask.sum(-1)), feature_vector_length)

    def freeze_feature_encoder(self):
        """Stops the training of the conv encoder, as in fine-tuning."""
        self.base_model.feature_extractor.requires_grad_(False)

    def freeze_base_model(self):
        """Stops the training of the whole encoder, so that only a head learns."""
        self.base_model.requires_grad_(False)

    def get_input_embeddings(self) -> None:
        """None: waveforms are not looked up. PEFT asks when it saves adapters beside a head of another size."""

    def get_output_embeddings(self) -> None:
        """None: a CTC head is no embedding of what goes in."""

    def set_update(self, update: int):
        """Tells the model which optimizer update comes next: schedules inside the model are functions of it.

        Layer drop then drops the same layers in all ranks and micro-batches of an update; without this call it draws
        new layers in every forward pass.
        """
        self.base_model.encoder.set_update(update)
        self.is_told = True

    def resting_parameters(self) -> Iterator[nn.Parameter]:
        """The weights that take no part in the update that `set_update` has told of."""
        return self.base_model.encoder.resting_parameters()

    def lost_schedules(self) -> list[str]:
        """What goes wrong if `set_update` is never called, in words."""
        return ["layer drop takes other layers in each process and micro-batch"] if self.config.layerdrop else []

    def warn_if_never_told(self):
        """Warns once that a model is trained without `set_update`, and of the consequences."""
        if torch.compiler.is_compiling() or self.is_told or not self.training:
            return
        self.is_told = True
        if lost := self.lost_schedules():
            logger.warning(
                f"{type(self).__name__} is trained without `set_update`, so {' and '.join(lost)}. Call "
                "`model.set_update(update)` before every update, or train with this package's trainers."
            )


def check_scale(waveforms: Tensor):
    """Refuses samples that were integers and not scaled, as some libraries and pipelines return them.

    Args:
        waveforms: `(batch, samples)`, in [-1, 1], or of zero mean and unit variance.
    Raises:
        ValueError: If they are not floats, or far beyond both of these scales.
    """
    if waveforms.is_cuda and torch.cuda.is_current_stream_capturing():
        return  # a look at the values would end the capture
    loudest = waveforms.detach().abs().max() if waveforms.numel() else 0
    if waveforms.is_floating_point() and not loudest > LOUDEST:  # NaN are not judged
        return
    raise ValueError(
        f"The audio holds values up to {float(loudest):,.0f} ({waveforms.dtype}): integers that were not "
        "scaled. Give floats in [-1, 1]: divide int16 samples by 32,768 before the feature extractor or the pipeline."
    )


class SSLSpeechModel(SSLSpeechPreTrainedModel):
    """Raw audio to contextualised frames, one every 20 ms with the papers' conv stack."""

    def __init__(self, config: SSLSpeechConfig):
        super().__init__(config)
        self.feature_extractor = ConvEncoder(config)
        self.feature_projection = FeatureProjection(config)
        self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size))
        self.encoder = Transformer(config)
        self.post_init()

    def set_initial_values(self):
        """The mask embedding, uniform in [0, 1)."""
        init.uniform_(self.masked_spec_embed)

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        mask_feature_indices: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> SSLSpeechModelOutput | tuple:
        """Encodes audio.

        Args:
            input_values: Waveforms at 16 kHz, `(batch, samples)`, of any floating type.
            attention_mask: 1 on real samples, 0 on padding (to the right), `(batch, samples)`; None if none is padded.
            mask_time_indices: True on frames to be replaced by the mask embedding, `(batch, frames)` bool.
            mask_feature_indices: True on channels to be set to zero in all frames, `(batch, hidden)` bool.
            output_hidden_states, output_attentions: As everywhere in transformers, and so is `return_dict`.
        Raises:
            ValueError: If the audio is shorter than one frame or, in eval mode, holds integers that were not scaled, if
                masks do not fit the frames, or if attentions are asked of an implementation that does not compute them.
        """
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions and self.config._attn_implementation != "eager":
            raise ValueError(
                f"Attention {self.config._attn_implementation!r} does not compute the weights that `output_attentions` "
                "asks for: load the model with `attn_implementation='eager'`."
            )

        if not (self.training or torch.compiler.is_compiling() or torch.jit.is_tracing()):
            check_scale(input_values)
        lengths = None if attention_mask is None else attention_mask.sum(-1)
        features = self.feature_extractor(input_values, lengths)  # (batch, frames, channels)
        mask = None if lengths is None else frame_mask(self.num_frames(lengths), features.shape[1])
        if self.training and self.config.feature_gradient_scale != 1:
            features = ScaleGradient.apply(features, self.config.feature_gradient_scale)
        hidden, normalised = self.feature_projection(features)  # (batch, frames, hidden)
        hidden = self.hide(hidden, mask_time_indices, mask_feature_indices)
        hidden, hidden_states, attentions = self.encoder(
            hidden, mask, output_hidden_states=output_hidden_states, output_attentions=output_attentions
        )
        return SSLSpeechModelOutput(hidden, normalised, features, mask, hidden_states, attentions)

    def draw_masks(self, input_values: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Frames and channels to hide in fine-tuning (SpecAugment), as the config's `mask_*` say, drawn by NumPy.

        For training with batches that bring no masks. Audio and channels no longer than a span stay whole.

        Returns:
            `mask_time_indices` `(batch, frames)` and `mask_feature_indices` `(batch, hidden)`.
        """
        config, batch = self.config, len(input_values)
        frames = self.num_frames(input_values.shape[-1])
        real = None if attention_mask is None else self._get_feature_vector_attention_mask(frames, attention_mask)

        def draw(size: int, mask: Tensor | None, prefix: str) -> Tensor:
            share, length = getattr(config, f"{prefix}_prob"), getattr(config, f"{prefix}_length")
            if not (config.apply_spec_augment and share and size > length):
                return torch.zeros(batch, size, dtype=torch.bool, device=input_values.device)
            spans = _compute_mask_indices(
                (batch, size), share, length, mask, min_masks=getattr(config, f"{prefix}_min_masks")
            )
            return torch.from_numpy(spans).to(input_values.device)

        return draw(frames, real, "mask_time"), draw(config.hidden_size, None, "mask_feature")

    def hide(self, hidden: Tensor, frames: Tensor | None, channels: Tensor | None) -> Tensor:
        """Replaces masked frames by the mask embedding and masked channels by zero (SpecAugment in fine-tuning)."""
        if frames is not None:
            if frames.shape != hidden.shape[:2]:
                raise ValueError(
                    f"The mask covers {tuple(frames.shape)} (rows, frames) but the audio makes "
                    f"{tuple(hidden.shape[:2])}: the collator has another conv stack. Give it this model's config."
                )
            hidden = torch.where(frames[..., None], self.masked_spec_embed.to(hidden.dtype), hidden)
        if channels is not None:
            hidden = hidden.masked_fill(channels[:, None], 0.0)
        return hidden


class SSLWav2Vec2Model(SSLSpeechModel):
    """The wav2vec 2.0 encoder; weights are interchangeable with transformers' `Wav2Vec2Model`."""

    config_class = SSLWav2Vec2Config
    base_model_prefix = "wav2vec2"


class SSLHubertModel(SSLSpeechModel):
    """The HuBERT encoder; weights are interchangeable with transformers' `HubertModel`."""

    config_class = SSLHubertConfig
    base_model_prefix = "hubert"
