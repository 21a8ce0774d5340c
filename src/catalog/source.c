/*-------------------------------------------------------------------------
 *
 * source.c
 *	  The connection to a migration's source: as its owner, to its server.
 *
 * Server and role are named in a migration, and nothing keeps them from being
 * dropped.  What needs no source goes on without them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/migration.h"
#include "remote/connection.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

/*
 * rehome_migration_connect opens a connection to a migration's source; purpose
 * is what pg_stat_activity says there.  Raises when the server, or the owner,
 * does not exist any more.
 */
RehomeConn *
rehome_migration_connect(RehomeMigration *migration, const char *purpose)
{
	if (!OidIsValid(migration->serverid))
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("server \"%s\" does not exist", migration->server),
				errdetail("It is the source of migration \"%s\".", migration->name),
				errhint("CREATE SERVER %s FOREIGN DATA WRAPPER postgres_fdw OPTIONS (...);",
						quote_identifier(migration->server)));
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(migration->owner)))
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("the owner of migration \"%s\" does not exist any more", migration->name),
				errhint("SELECT rehome.set_owner(%s, '<role>');", quote_literal_cstr(migration->name)));
	return rehome_conn_open(migration->serverid, migration->owner, purpose);
}
