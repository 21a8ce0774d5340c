/*-------------------------------------------------------------------------
 *
 * pg_rehome.c
 *	  The library's entry point.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "capture/capture.h"
#include "fmgr.h"
#include "guc.h"
#include "miscadmin.h"
#include "remote/connection.h"
#include "worker/worker.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

/*
 * _PG_init defines settings and callbacks, and, while the server preloads
 * libraries, registers the launcher.
 */
void
_PG_init(void)
{
	rehome_guc_init();
	rehome_conn_init();
	rehome_own_writes_init();
	rehome_worker_init();
	if (process_shared_preload_libraries_in_progress)
		rehome_launcher_register();
}
