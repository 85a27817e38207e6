// ATen's CUDA headers name the handles of four math libraries, by pointer only. These declarations stand in for headers
// that come in wheels of hundreds of megabytes; where the real ones are installed, they are found first (-idirafter).
#pragma once
typedef enum : int {} cublasStatus_t;
typedef struct cublasContext* cublasHandle_t;
