// See cublas_v2.h.
#pragma once
typedef enum : int {} cusparseStatus_t;
typedef struct cusparseContext* cusparseHandle_t;
