/*-------------------------------------------------------------------------
 *
 * document.h
 *	  The rules of a migration, for people to read and to carry elsewhere.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REHOME_DOCUMENT_H
#define REHOME_DOCUMENT_H

#include "catalog/migration.h"
#include "funcapi.h"
#include "util/spi.h"

/* Where the rows of a set-returning function go, as text. */
typedef struct RehomeSink
{
	ReturnSetInfo *rsinfo;
	AttInMetadata *meta;
} RehomeSink;

extern void rehome_sink_begin(RehomeSink *sink, FunctionCallInfo fcinfo);
extern void rehome_sink_put(RehomeSink *sink, char **values);

/* mapping_document.c */
extern bool rehome_rule_fields(RehomeMigration *migration, Oid source, const char *expression, List **names);
extern char *rehome_source_name(Oid source);

#endif							/* REHOME_DOCUMENT_H */
