"""Fields of a manifest that concern the cluster and not the training, by the object that has them.

Generated from the marks in operator/teacher_operator/api/spec.py: `make crds` writes it.
"""

PLATFORM_FIELDS: dict[str, tuple[str, ...]] = {
    "spec": (
        "activeDeadlineSeconds",
        "affinity",
        "backoffLimit",
        "gangTimeoutSeconds",
        "gpuResourceName",
        "gpus",
        "imagePullSecrets",
        "managedBy",
        "modelCache",
        "nodeSelector",
        "nodes",
        "pendingDeadlineSeconds",
        "pod",
        "priorityClassName",
        "queueName",
        "resources",
        "runtimeClassName",
        "scratch",
        "serviceAccountName",
        "sharedMemory",
        "stages",
        "suspend",
        "tolerations",
        "ttlSecondsAfterFinished",
        "workloadPriorityClassName",
    ),
    "spec.storage": (
        "caBundleConfigMapRef",
        "credentialsSecretRef",
    ),
}
