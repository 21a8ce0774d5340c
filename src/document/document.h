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
#include "util/sink.h"
#include "util/spi.h"

/* derived_document.c */
extern void rehome_derived_rows(RehomeMigration *migration, RehomeSink *sink);
extern void rehome_derived_markdown(StringInfo text, RehomeMigration *migration);

/* mapping_document.c */
extern void rehome_markdown_cell(StringInfo text, const char *value);
extern void rehome_markdown_code(StringInfo text, const char *value);
extern bool rehome_rule_fields(RehomeMigration *migration, Oid source, const char *expression, List **names);
extern char *rehome_source_name(Oid source);

#endif							/* REHOME_DOCUMENT_H */
