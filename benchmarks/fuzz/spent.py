"""The FLOPs that a training run really spends, counted while it runs."""

import contextlib

from parts import PREFIX


class Spent:
    """Counts the FLOPs of training steps while a job runs, by torch's own formulas.

    From a plug-in's call in training mode to the step of the optimiser; what is evaluated, checked or
    computed by the optimiser is no training. Kernels that hide their products are not used.
    """

    def __enter__(self) -> "Spent":
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.nn.modules.module import register_module_forward_pre_hook
        from torch.optim.optimizer import register_optimizer_step_pre_hook
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils.flop_counter import conv_flop_count, flop_registry

        outer = self
        outer.flops, outer.training = 0, False

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                kwargs = kwargs or {}
                operator = func._overloadpacket
                if operator not in flop_registry:
                    with self:
                        out = func.decompose(*args, **kwargs)
                    if out is not NotImplemented:
                        return out
                out = func(*args, **kwargs)
                if not outer.training or operator not in flop_registry:
                    return out
                if operator is torch.ops.aten.convolution_backward:  # torch's forgets the groups
                    one = conv_flop_count(args[1].shape, args[2].shape, args[0].shape, args[7])
                    outer.flops += one * sum(args[10][:2])
                else:
                    outer.flops += flop_registry[operator](*args, **kwargs, out_val=out)
                return out

        def called(module, inputs):
            if type(module).__module__.startswith(PREFIX) and module.training:
                outer.training |= torch.is_grad_enabled()

        def stepped(optimizer, *others):
            outer.training = False

        self.held = contextlib.ExitStack()
        for hook in (
            register_module_forward_pre_hook(called),
            register_optimizer_step_pre_hook(stepped),
        ):
            self.held.callback(hook.remove)
        self.held.enter_context(sdpa_kernel(SDPBackend.MATH))
        self.held.enter_context(torch.backends.mkldnn.flags(enabled=False))
        self.held.enter_context(Mode())
        return self

    def __exit__(self, *error) -> None:
        self.held.close()
